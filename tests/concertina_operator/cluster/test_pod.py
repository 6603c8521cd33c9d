"""The pod that is built from a template."""

import copy
from typing import Any

import pytest

from concertina_api.errors import InvalidJob
from concertina_operator.cluster.pod import build_pod
from concertina_operator.cluster.template import template_hash
from tests.cluster.cluster import Cluster
from tests.concertina_operator.cluster.templates import JOB, a_container, a_templated_spec

SIDECAR = {"name": "proxy", "image": "registry.example/proxy:1", "ports": [{"containerPort": 9464}]}


def built(*containers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return build_pod(JOB, a_templated_spec(*containers, **fields), name="tiny-lm-2")


def trainer_of(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = (entry for entry in pod["spec"]["containers"] if entry["name"] == "trainer")
    return found


def environment_of(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def mounts_of(container: dict[str, Any]) -> dict[str, str]:
    return {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}


def test_the_pod_belongs_to_its_job() -> None:
    pod = built()
    assert (pod["apiVersion"], pod["kind"]) == ("v1", "Pod")
    metadata = pod["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("tiny-lm-2", "ml")
    assert metadata["labels"] == {"concertina.dev/job": "tiny-lm"}
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": "concertina.dev/v1alpha1",
            "kind": "AdaptiveTrainingJob",
            "name": "tiny-lm",
            "uid": JOB["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]
    assert metadata["annotations"] == {
        "concertina.dev/protocol": "1",
        "concertina.dev/template-hash": template_hash(a_templated_spec()),
        "concertina.dev/trainer": "trainer",
        "kubectl.kubernetes.io/default-container": "trainer",
    }


def test_labels_and_annotations_of_the_user_are_kept() -> None:
    written = {
        "labels": {"team": "speech"},
        "annotations": {"a": "b", "kubectl.kubernetes.io/default-container": "proxy"},
    }
    metadata = built(metadata=written)["metadata"]
    assert metadata["labels"] == {"team": "speech", "concertina.dev/job": "tiny-lm"}
    assert written["annotations"].items() <= metadata["annotations"].items()


def test_what_a_pod_lacks_is_added() -> None:
    pod = built()["spec"]
    volumes = {volume["name"]: volume for volume in pod.pop("volumes")}
    (trainer,) = pod.pop("containers")
    assert pod == {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 120,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": False,
    }
    assert volumes["concertina-shm"]["emptyDir"] == {"medium": "Memory"}
    assert volumes["concertina-run"]["emptyDir"] == {}
    token, authority, namespace = volumes["concertina-token"]["projected"]["sources"]
    assert token == {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}
    assert authority["configMap"]["name"] == "kube-root-ca.crt"
    assert namespace["downwardAPI"]["items"][0]["path"] == "namespace"

    environment = environment_of(trainer)
    assert environment["CONCERTINA_GRACE_SECONDS"] == "120"
    assert environment["CONCERTINA_METRICS_PORT"] == "9464"
    assert mounts_of(trainer) == {
        "/var/run/secrets/concertina.dev": "concertina-token",
        "/run/concertina": "concertina-run",
        "/dev/shm": "concertina-shm",
    }
    assert trainer["volumeMounts"][0]["readOnly"] is True
    assert trainer["command"] == ["python3", "-m", "concertina_trainer.agent"]
    assert trainer["ports"] == [{"name": "metrics", "containerPort": 9464, "protocol": "TCP"}]
    assert trainer["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}


FULL_CONTAINER = a_container(
    command=["/opt/venv/bin/python", "-m", "concertina_trainer.agent"],
    args=["train.py", "--fast"],
    env=[{"name": "OMP_NUM_THREADS", "value": "4"}, {"name": "ME", "value": "$(CONCERTINA_POD)"}],
    envFrom=[{"configMapRef": {"name": "settings"}}],
    ports=[{"name": "metrics", "containerPort": 8000}, {"name": "debug", "containerPort": 5678}],
    readinessProbe={"exec": {"command": ["true"]}},
    livenessProbe={"exec": {"command": ["true"]}},
    resources={"limits": {"nvidia.com/gpu": 1, "memory": "8Gi"}},
    securityContext={"readOnlyRootFilesystem": True},
    volumeMounts=[
        {"name": "shared", "mountPath": "/dev/shm/"},
        {"name": "scratch", "mountPath": "/run/concertina"},
        {"name": "data", "mountPath": "/data", "readOnly": True},
    ],
)
FULL_POD: dict[str, Any] = {
    "volumes": [
        {"name": "shared", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        {"name": "scratch", "emptyDir": {"sizeLimit": "9Gi"}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
    ],
    "restartPolicy": "Never",
    "terminationGracePeriodSeconds": 0,
    "automountServiceAccountToken": True,
    "serviceAccountName": "researcher",
    "securityContext": {"runAsUser": 1000, "seccompProfile": {"type": "Unconfined"}},
    "initContainers": [{"name": "fetch", "image": "registry.example/fetch:1"}],
    "nodeSelector": {"gpu": "h200"},
    "priorityClassName": "research",
}


def test_nothing_that_the_user_set_is_changed() -> None:
    spec = a_templated_spec(FULL_CONTAINER, SIDECAR, **FULL_POD)
    before = copy.deepcopy(spec.pods.template)
    pod = build_pod(JOB, spec, name="tiny-lm-0")["spec"]
    assert spec.pods.template == before

    trainer, sidecar = pod["containers"]
    assert sidecar == SIDECAR
    for field in FULL_POD.keys() - {"volumes"}:
        assert pod[field] == FULL_POD[field], field
    assert pod["volumes"][:-1] == FULL_POD["volumes"]
    for field in FULL_CONTAINER.keys() - {"env", "volumeMounts"}:
        assert trainer[field] == FULL_CONTAINER[field], field
    assert trainer["volumeMounts"][:-1] == FULL_CONTAINER["volumeMounts"]
    # After the operator's own, which they may refer to.
    assert trainer["env"][-2:] == FULL_CONTAINER["env"]
    assert environment_of(trainer)["CONCERTINA_METRICS_PORT"] == "8000"
    assert environment_of(trainer)["CONCERTINA_GRACE_SECONDS"] == "0"


def test_the_trainer_is_told_what_its_sleep_before_sigterm_leaves_of_the_grace() -> None:
    sleepy = a_container(lifecycle={"preStop": {"sleep": {"seconds": 45}}})
    assert environment_of(trainer_of(built(sleepy)))["CONCERTINA_GRACE_SECONDS"] == "75"


def test_only_the_trainer_gets_a_token() -> None:
    _, sidecar = built(a_container(), SIDECAR)["spec"]["containers"]
    assert "volumeMounts" not in sidecar
    assert "env" not in sidecar


def test_the_only_container_trains_whatever_its_name() -> None:
    pod = built({"name": "main", "image": "i"})
    assert pod["metadata"]["annotations"]["concertina.dev/trainer"] == "main"
    assert "CONCERTINA_SPEC" in environment_of(pod["spec"]["containers"][0])


def test_seccomp_is_added_beside_other_settings() -> None:
    context = built(securityContext={"runAsNonRoot": True})["spec"]["securityContext"]
    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_arguments_without_a_command_are_those_of_the_agent() -> None:
    trainer = trainer_of(built(a_container(args=["train.py"])))
    assert trainer["command"] == ["python3", "-m", "concertina_trainer.agent"]
    assert trainer["args"] == ["train.py"]


@pytest.mark.parametrize(
    ("containers", "pod", "want"),
    [
        pytest.param([a_container()], {}, "9464", id="the-first"),
        pytest.param([a_container(), SIDECAR], {}, "9465", id="taken-by-a-sidecar"),
        pytest.param(
            [a_container()], {"initContainers": [SIDECAR]}, "9465", id="taken-at-the-start"
        ),
        pytest.param(
            [a_container(ports=[{"containerPort": 9464}])], {}, "9465", id="taken-by-the-trainer"
        ),
        pytest.param(
            [a_container(ports=[{"name": "metrics", "containerPort": 80}]), SIDECAR],
            {},
            "80",
            id="the-users",
        ),
    ],
)
def test_metrics_are_served_on_a_port_that_nobody_has(
    containers: list[dict[str, Any]], pod: dict[str, Any], want: str
) -> None:
    trainer = trainer_of(built(*containers, **pod))
    assert environment_of(trainer)["CONCERTINA_METRICS_PORT"] == want
    (named,) = (port for port in trainer["ports"] if port.get("name") == "metrics")
    assert str(named["containerPort"]) == want


def test_pods_on_the_hosts_network_share_its_ports_so_none_is_chosen() -> None:
    trainer = trainer_of(built(hostNetwork=True))
    assert environment_of(trainer)["CONCERTINA_METRICS_PORT"] == "0"
    assert "ports" not in trainer
    assert "readinessProbe" not in trainer
    port = {"name": "metrics", "containerPort": 7000}
    chosen = trainer_of(built(a_container(ports=[port]), hostNetwork=True))
    assert environment_of(chosen)["CONCERTINA_METRICS_PORT"] == "7000"
    assert chosen["readinessProbe"]["httpGet"]["port"] == "metrics"


def test_the_hosts_shared_memory_is_left_in_place() -> None:
    assert "/dev/shm" not in mounts_of(trainer_of(built(hostIPC=True)))


def test_a_pod_is_kept_off_nodes_and_says_so() -> None:
    pod = build_pod(JOB, a_templated_spec(a_container()), name="tiny-lm-2", avoid=("n1", "n2"))
    assert pod["metadata"]["annotations"]["concertina.dev/avoids"] == "n1,n2"
    required = pod["spec"]["affinity"]["nodeAffinity"].popitem()[1]
    (term,) = required["nodeSelectorTerms"]
    assert [entry["values"] for entry in term["matchFields"]] == [["n1"], ["n2"]]
    plain = built(a_container())
    assert "affinity" not in plain["spec"]
    assert "concertina.dev/avoids" not in plain["metadata"]["annotations"]


def test_equal_inputs_give_equal_pods() -> None:
    assert built() == built()


def test_nulls_of_a_template_are_absent_from_the_pod() -> None:
    trainer = trainer_of(built(a_container(env=None, readinessProbe=None, lifecycle=None)))
    assert "lifecycle" not in trainer
    assert trainer["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_a_template_with_faults_is_not_built() -> None:
    with pytest.raises(InvalidJob, match="restartPolicy is Always"):
        built(restartPolicy="Always")


@pytest.mark.parametrize(
    ("containers", "pod"),
    [
        pytest.param([a_container()], {}, id="only-what-is-needed"),
        pytest.param([{"name": "main", "image": "i"}], {"hostNetwork": True}, id="host-network"),
        pytest.param([a_container()], {"hostIPC": True}, id="host-ipc"),
        pytest.param(
            [FULL_CONTAINER, SIDECAR],
            {
                key: value
                for key, value in FULL_POD.items()
                # These name objects that a cluster may not have.
                if key not in ("serviceAccountName", "priorityClassName")
            },
            id="all-that-a-user-may-set",
        ),
    ],
)
def test_the_api_server_takes_the_pod_strictly(
    control_plane: Cluster,
    namespace: str,
    containers: list[dict[str, Any]],
    pod: dict[str, Any],
) -> None:
    job = {"metadata": {**JOB["metadata"], "namespace": namespace}}
    spec = a_templated_spec(*containers, **pod)
    written = build_pod(job, spec, name="tiny-lm-0", avoid=("gpu-1", "gpu-2"))
    api = control_plane.admin()
    path = f"/api/v1/namespaces/{namespace}/pods"
    stored = api.create(path, written, dryRun="All", fieldValidation="Strict")
    api.close()
    kept = stored["spec"]
    assert kept["restartPolicy"] == "Never"
    names = [volume["name"] for volume in kept["volumes"]]
    # Nobody else's token is in the pod unless the user asked for it.
    wants_token = written["spec"]["automountServiceAccountToken"]
    assert any(name.startswith("kube-api-access") for name in names) is wants_token


@pytest.mark.parametrize(
    ("own", "of_operator", "want"),
    [
        pytest.param([], None, [], id="nobody"),
        pytest.param([], "json", ["json"], id="the operator"),
        pytest.param(["text"], "json", ["text"], id="the template before the operator"),
    ],
)
def test_pods_log_like_their_operator_unless_the_template_says_how(
    own: list[str], of_operator: str | None, want: list[str]
) -> None:
    env = [{"name": "CONCERTINA_LOG_FORMAT", "value": value} for value in own]
    spec = a_templated_spec(a_container(env=env))
    pod = build_pod(JOB, spec, name="tiny-lm-0", log_format=of_operator)
    variables = pod["spec"]["containers"][0]["env"]
    told = [entry["value"] for entry in variables if entry["name"] == "CONCERTINA_LOG_FORMAT"]
    assert told == want
