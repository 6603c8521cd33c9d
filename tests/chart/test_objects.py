"""What single values do to the objects."""

import json
from pathlib import Path

import pytest
import yaml

from concertina_api.manifest import parse_job
from concertina_operator.cluster.install import HEALTH_PORT, NAMESPACE
from concertina_operator.cluster.pod import JOB_LABEL, METRICS_PORT_NAME, build_pod
from concertina_operator.cluster.rights import OPERATOR, node_rights
from tests.chart.helm import (
    CHART,
    RELEASE,
    VALUES,
    key_of,
    manifest,
    of_kind,
    only,
    render,
    render_file,
    run_helm,
)

DIGEST = f"sha256:{'0' * 64}"


def container(values):
    (found,) = only(render(values), "Deployment")["spec"]["template"]["spec"]["containers"]
    return found


def job_of_the_test():
    """The job of `helm test` as it is by default."""
    data = only(render(), "ConfigMap", f"{OPERATOR}-test")["data"]
    return json.loads(data["job.json"])


@pytest.mark.parametrize(
    ("image", "want"),
    [
        pytest.param({}, "concertina-operator:0.1.0", id="version of the chart"),
        pytest.param({"repository": "r/o", "tag": "2"}, "r/o:2", id="tag"),
        pytest.param({"digest": DIGEST}, f"concertina-operator@{DIGEST}", id="digest"),
        pytest.param(
            {"tag": "2", "digest": DIGEST}, f"concertina-operator:2@{DIGEST}", id="tag and digest"
        ),
    ],
)
def test_the_image_is_the_one_that_is_named(image, want):
    assert container({"image": image})["image"] == want


@pytest.mark.parametrize(
    ("values", "want"),
    [
        pytest.param({}, [], id="nothing"),
        pytest.param({"workers": 4}, ["--workers", "4"], id="workers"),
        pytest.param({"podsPerSecond": 0.5}, ["--pods-per-second", "0.5"], id="pods per second"),
        pytest.param({"nodes": {"watch": True}}, ["--watch-nodes"], id="to watch nodes"),
        pytest.param(
            {"nodes": {"watch": True, "noticeTaints": ["example.com/going", "off"]}},
            ["--watch-nodes", "--notice-taint", "example.com/going", "--notice-taint", "off"],
            id="more taints",
        ),
        pytest.param({"podsPerSecond": 1000}, ["--pods-per-second", "1000"], id="a round number"),
    ],
)
def test_the_operator_is_told(values, want):
    assert container(values)["args"] == ["--port", str(HEALTH_PORT), *want]


def test_metrics_are_served_with_the_secrets_that_are_named():
    values = {"authentication": {"enabled": True, "secretName": "t"}, "tls": {"secretName": "c"}}
    pod = only(render({"metrics": values}), "Deployment")["spec"]["template"]["spec"]
    found = pod["containers"][0]
    variables = {entry["name"]: entry["value"] for entry in found["env"]}
    mounted = {mount["name"]: mount["mountPath"] for mount in found["volumeMounts"]}
    files = {
        f"{mounted[volume['name']]}/{item['path']}"
        for volume in pod["volumes"]
        for item in volume["secret"]["items"]
    }

    assert {
        value for name, value in variables.items() if name.startswith("CONCERTINA_METRICS")
    } == files
    assert {volume["secret"]["secretName"] for volume in pod["volumes"]} == {"t", "c"}


@pytest.mark.parametrize(
    ("metrics", "want_port", "want_target"),
    [
        pytest.param({}, 8080, "health", id="in the clear"),
        pytest.param({"tls": {"secretName": "c"}}, 8443, "metrics", id="with TLS"),
    ],
)
def test_the_service_the_monitor_and_the_fence_mean_one_port(metrics, want_port, want_target):
    values = {
        "metrics": metrics,
        "monitoring": {"operatorMonitor": {"enabled": True}},
        "networkPolicies": {"operator": {"enabled": True}},
    }
    objects = render(values)
    (port,) = only(objects, "Service")["spec"]["ports"]
    (endpoint,) = only(objects, "ServiceMonitor")["spec"]["endpoints"]
    (rule,) = only(objects, "NetworkPolicy")["spec"]["ingress"]
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    numbers = {entry["name"]: entry["containerPort"] for entry in pod["containers"][0]["ports"]}

    assert (port["port"], port["targetPort"]) == (want_port, want_target)
    assert numbers[want_target] == want_port
    assert endpoint["port"] == port["name"]
    assert rule["ports"] == [{"protocol": "TCP", "port": want_target}]


def test_monitors_find_what_they_are_for():
    objects = render_file(VALUES / "everything.yaml")
    service, monitor = only(objects, "Service"), only(objects, "ServiceMonitor")["spec"]
    trainers = only(objects, "PodMonitor")["spec"]

    assert service["metadata"]["labels"].items() >= monitor["selector"]["matchLabels"].items()
    assert monitor["namespaceSelector"] == {"matchNames": [service["metadata"]["namespace"]]}
    assert trainers["selector"] == {"matchExpressions": [{"key": JOB_LABEL, "operator": "Exists"}]}
    assert trainers["namespaceSelector"] == {"any": True}
    assert trainers["jobLabel"] == JOB_LABEL
    assert [entry["port"] for entry in trainers["podMetricsEndpoints"]] == [METRICS_PORT_NAME]


def test_no_selector_of_the_operator_finds_the_pod_of_the_test():
    selected = only(render(), "Deployment")["spec"]["selector"]["matchLabels"].items()

    assert not selected <= only(render(), "Pod")["metadata"]["labels"].items()


def test_dashboards_and_alerts_are_those_of_the_files():
    objects = render_file(VALUES / "everything.yaml")
    dashboards = sorted((CHART / "files/dashboards").glob("*.json"))
    maps = [
        e for e in of_kind(objects, "ConfigMap") if "grafana_dashboard" in e["metadata"]["labels"]
    ]
    alerts = yaml.safe_load((CHART / "files/alerts.yaml").read_text())

    assert [entry["data"] for entry in maps] == [
        {path.name: path.read_text()} for path in dashboards
    ]
    assert only(objects, "PrometheusRule")["spec"] == alerts


@pytest.mark.parametrize(
    ("values", "want"),
    [
        pytest.param({}, 1, id="two replicas"),
        pytest.param({"replicas": 1}, 0, id="one replica"),
        pytest.param({"podDisruptionBudget": {"enabled": False}}, 0, id="switched off"),
    ],
)
def test_a_budget_never_stops_every_drain(values, want):
    assert len(of_kind(render(values), "PodDisruptionBudget")) == want


def test_operators_of_one_version_are_spread_whatever_the_last_one_has_where():
    (spread,) = only(render(), "Deployment")["spec"]["template"]["spec"][
        "topologySpreadConstraints"
    ]

    assert spread["matchLabelKeys"] == ["pod-template-hash"]


@pytest.mark.parametrize(
    ("values", "want"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"priorityClass": {"create": True}}, OPERATOR, id="made"),
        pytest.param(
            {"priorityClass": {"create": True}, "watchNamespace": "team"},
            f"{OPERATOR}.{NAMESPACE}",
            id="made for one namespace",
        ),
        pytest.param({"priorityClass": {"create": True, "name": "p"}}, "p", id="made by name"),
        pytest.param({"priorityClass": {"name": "p"}}, "p", id="there already"),
    ],
)
def test_the_operator_has_the_priority_class(values, want):
    objects = render(values)
    made = [entry["metadata"]["name"] for entry in of_kind(objects, "PriorityClass")]

    assert made == ([want] if values.get("priorityClass", {}).get("create") else [])
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    assert pod.get("priorityClassName") == want


@pytest.mark.parametrize("namespace", [None, "team"])
def test_nodes_are_read_by_who_asks_for_it_alone(namespace):
    values = {"watchNamespace": namespace or ""}
    roles = of_kind(render(values), "ClusterRole")
    assert all("nodes" not in rule["resources"] for role in roles for rule in role["rules"])
    watching = render(values | {"nodes": {"watch": True}})
    want = node_rights(namespace=NAMESPACE, jobs_in=namespace)
    made = [only(watching, entry["kind"], entry["metadata"]["name"]) for entry in want]
    assert [entry.get("rules") for entry in made] == [entry.get("rules") for entry in want]
    assert made[1]["roleRef"] == want[1]["roleRef"]


def test_the_lease_goes_before_the_operator_and_the_operator_before_the_trainers():
    objects = render()
    schemas = {entry["metadata"]["name"]: entry["spec"] for entry in of_kind(objects, "FlowSchema")}
    shares = {
        entry["metadata"]["name"]: entry["spec"]["limited"]["nominalConcurrencyShares"]
        for entry in of_kind(objects, "PriorityLevelConfiguration")
    }
    order = [f"{OPERATOR}-lease", OPERATOR, "concertina-trainers"]

    assert sorted(schemas, key=lambda name: schemas[name]["matchingPrecedence"]) == order
    assert schemas[order[0]]["priorityLevelConfiguration"] == {"name": "leader-election"}
    assert shares[OPERATOR] > shares["concertina-trainers"]


@pytest.mark.parametrize(
    ("values", "want"),
    [
        pytest.param({}, 3, id="all namespaces"),
        pytest.param({"flowSchemas": {"enabled": False}}, 0, id="switched off"),
        pytest.param({"watchNamespace": "team"}, 0, id="one namespace"),
        pytest.param(
            {"watchNamespace": "team", "flowSchemas": {"enabled": True}}, 3, id="asked for"
        ),
    ],
)
def test_shares_of_the_cluster_are_for_who_serves_it_or_asks(values, want):
    assert len(of_kind(render(values), "FlowSchema")) == want


def test_releases_for_two_namespaces_have_no_object_in_common():
    both = {"flowSchemas": {"enabled": True}, "priorityClass": {"create": True}}
    both |= {"nodes": {"watch": True}}
    second = {"crds": {"create": False}, "clusterResources": {"create": False}}
    of_first = set(map(key_of, render({"watchNamespace": "a", **both}, namespace="a")))
    of_second = set(map(key_of, render({"watchNamespace": "b", **both, **second}, namespace="b")))

    assert {("FlowSchema", None, f"{OPERATOR}.{name}") for name in "ab"} <= of_first | of_second
    assert not of_first & of_second


@pytest.mark.parametrize(
    ("values", "want", "want_not"),
    [
        pytest.param(
            {},
            ["serves the jobs of all namespaces", "helm test concertina", "--take-ownership"],
            ["extraEgress", "crds.create is false", "any address", "every pod of the cluster"],
            id="default",
        ),
        pytest.param(
            {
                "watchNamespace": "team",
                "crds": {"create": False, "keep": False},
                "networkPolicies": {"jobs": {"enabled": True}},
                "metrics": {"authentication": {"enabled": True, "secretName": "token"}},
                "monitoring": {"rules": {"enabled": True}},
                "test": {"enabled": False},
            },
            [
                "serves the jobs of namespace team",
                "crds.create is false",
                "any address on ports 443, 6443",
                "the token of /metrics in the clear",
                "every pod of the cluster reads metrics",
            ],
            ["helm test", "--take-ownership", "Nothing watches it", "extraEgress"],
            id="changed",
        ),
        pytest.param(
            yaml.safe_load((VALUES / "hardened.yaml").read_text()),
            ["extraEgress"],
            ["any address", "every pod of the cluster", "in the clear"],
            id="hardened",
        ),
    ],
)
def test_the_notes_tell_what_comes_next(values, want, want_not, tmp_path):
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    arguments = ("install", RELEASE, str(CHART), "--values", str(file), "--dry-run=client")
    _, _, notes = run_helm(*arguments).partition("NOTES:")

    assert [words for words in want if words not in notes] == []
    assert [words for words in want_not if words in notes] == []


def test_a_fence_is_put_up_in_each_namespace_that_is_named():
    policies = of_kind(render_file(VALUES / "everything.yaml"), "NetworkPolicy")

    assert sorted(entry["metadata"]["namespace"] for entry in policies) == [
        NAMESPACE, "team-a", "team-b",
    ]  # fmt: skip


def test_a_fence_lets_out_what_is_told_and_prometheus_in():
    policies = of_kind(render_file(VALUES / "everything.yaml"), "NetworkPolicy")
    policy = next(e["spec"] for e in policies if e["metadata"]["namespace"] == "team-a")
    jobs = {"podSelector": {"matchExpressions": [{"key": JOB_LABEL, "operator": "Exists"}]}}
    scraper = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
    }
    dns = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    api_server = [{"ipBlock": {"cidr": text}} for text in ("10.96.0.1/32", "192.168.0.0/24")]

    assert policy["podSelector"] == jobs["podSelector"]
    assert policy["ingress"] == [
        {"from": [jobs]},
        {"from": [scraper], "ports": [{"protocol": "TCP", "port": METRICS_PORT_NAME}]},
    ]
    assert [rule.get("to") for rule in policy["egress"]] == [
        [jobs], api_server, [dns], [{"ipBlock": {"cidr": "10.20.0.0/16"}}],
    ]  # fmt: skip


def test_a_fence_without_addresses_is_open_on_the_ports_of_the_api_server():
    policy = only(render({"networkPolicies": {"operator": {"enabled": True}}}), "NetworkPolicy")
    api_server, _ = policy["spec"]["egress"]

    assert [port["port"] for port in api_server["ports"]] == [443, 6443]
    assert "to" not in api_server


def test_dns_is_asked_at_the_addresses_and_ports_that_are_named():
    dns = {"namespace": "openshift-dns", "cidrs": ["169.254.20.10/32"], "ports": [53, 5353]}
    values = {"networkPolicies": {"operator": {"enabled": True}, "dns": dns}}
    _, rule = only(render(values), "NetworkPolicy")["spec"]["egress"]

    assert [peer.get("ipBlock", {}).get("cidr") for peer in rule["to"]] == [None, *dns["cidrs"]]
    assert {(port["protocol"], port["port"]) for port in rule["ports"]} == {
        (protocol, port) for protocol in ("UDP", "TCP") for port in dns["ports"]
    }


def test_names_are_texts_also_where_they_look_like_numbers():
    objects = render_file(VALUES / "numbers.yaml", namespace="2025", release="10")
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    names = [value for entry in objects for value in values_of(entry, {"name", "namespace"})]
    labels = [value for entry in objects for value in entry["metadata"]["labels"].values()]
    arguments = pod["containers"][0]["args"]
    every = [*names, *labels, *arguments, pod["serviceAccountName"], pod["priorityClassName"]]

    assert [value for value in every if not isinstance(value, str)] == []
    assert {"2024", "2025", "1000"} <= set(names)


def values_of(document, fields):
    """The values of the fields with these names, wherever they are."""
    if isinstance(document, dict):
        for name, inner in document.items():
            if name in fields and not isinstance(inner, dict | list):
                yield inner
            yield from values_of(inner, fields)
    elif isinstance(document, list):
        for inner in document:
            yield from values_of(inner, fields)


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor", "PrometheusRule"])
def test_a_label_of_one_object_goes_before_that_of_all(kind):
    text = manifest((VALUES / "numbers.yaml").read_text())
    (document,) = (part for part in text.split("---\n") if f"\nkind: {kind}\n" in part)

    assert document.count("    team: ") == 1
    assert yaml.safe_load(document)["metadata"]["labels"]["team"] == "monitoring"


class TestTheTest:
    """`helm test`, as it is rendered."""

    def test_trains_a_job_that_the_operator_takes(self):
        job = job_of_the_test()
        pod = build_pod(job | {"metadata": job["metadata"] | {"uid": "u", "generation": 1}},
                        parse_job(job).spec, name="concertina-test-0")  # fmt: skip

        assert pod["spec"]["containers"][0]["image"] == "concertina-trainer:0.1.0"

    def test_runs_under_rights_to_that_job_alone(self):
        role = only(render(), "Role", f"{OPERATOR}-test")
        create, rest = role["rules"]

        assert create["verbs"] == ["create"]
        assert (rest["verbs"], rest["resourceNames"]) == (
            ["get", "delete"],
            [job_of_the_test()["metadata"]["name"]],
        )
        assert {tuple(rule["resources"]) for rule in role["rules"]} == {("adaptivetrainingjobs",)}

    @pytest.mark.parametrize(
        ("values", "want"),
        [
            pytest.param({}, NAMESPACE, id="of the release"),
            pytest.param({"watchNamespace": "team"}, "team", id="of the jobs"),
            pytest.param({"test": {"namespace": "try"}}, "try", id="named"),
        ],
    )
    def test_makes_the_job_in_the_namespace(self, values, want):
        objects = render(values)
        data = only(objects, "ConfigMap")["data"]

        assert json.loads(data["job.json"])["metadata"]["namespace"] == want
        assert only(objects, "Role", f"{OPERATOR}-test")["metadata"]["namespace"] == want

    def test_lays_the_spec_of_the_values_over_its_own(self):
        toleration = {"operator": "Exists"}
        spec = {"samples": 8, "pods": {"template": {"spec": {"tolerations": [toleration]}}}}
        data = only(render({"test": {"spec": spec}}), "ConfigMap")["data"]
        found = json.loads(data["job.json"])["spec"]
        pod = found["pods"]["template"]["spec"]

        assert (found["samples"], pod["tolerations"]) == (8, [toleration])
        assert pod["containers"][0]["name"] == "trainer"

    def test_leaves_no_job_for_ever_and_outlasts_no_deadline(self):
        objects = render({"test": {"timeoutSeconds": 100}})
        job = json.loads(only(objects, "ConfigMap")["data"]["job.json"])["spec"]

        assert job["ttlSecondsAfterFinished"] > 0
        assert job["activeDeadlineSeconds"] == 100
        assert only(objects, "Pod")["spec"]["activeDeadlineSeconds"] > 100

    def test_runs_the_script_that_is_tested(self):
        script = only(render(), "ConfigMap")["data"]["test_job.py"]

        assert script == Path(CHART / "files/test_job.py").read_text()
