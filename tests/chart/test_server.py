"""What the chart renders, judged by an API server, by kubeconform and by promtool."""

import json
import subprocess

import pytest
import yaml

from concertina_api.manifest import parse_job
from concertina_operator.cluster.pod import build_pod
from tests.chart.helm import (
    VALUES,
    built,
    delivery,
    of_kind,
    only,
    render,
    render_file,
)
from tests.chart.schemas import LOCATION
from tests.cluster.tools import MONITORING

FILES = sorted(VALUES.glob("*.yaml"))


def written(objects, path):
    path.write_text(yaml.safe_dump_all(objects))
    return str(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_api_server_takes_every_object_as_it_is(server, path, tmp_path):
    objects = [e for e in render_file(path, namespace=server.namespace) if e["kind"] != "Pod"]
    file = written(objects, tmp_path / "objects.yaml")
    arguments = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", file)
    done = server.cluster.run_kubectl(*arguments, "--field-manager=chart", "--force-conflicts")

    assert len(done.stdout.splitlines()) == len(objects)
    assert "Warning" not in done.stderr  # such as of Pod Security, or of an old version


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kubeconform_knows_every_field(server, path, tmp_path):
    objects = render_file(path, namespace=server.namespace)
    command = [delivery("kubeconform"), "-strict", "-summary", "-schema-location"]
    command += [f"{server.schemas}/{LOCATION}", written(objects, tmp_path / "objects.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
    assert f"{len(objects)} resources found in 1 file - Valid: {len(objects)}," in done.stdout


@pytest.mark.parametrize(
    ("change", "want_message"),
    [
        pytest.param({"replica": 2}, "additional properties 'replica' not allowed", id="unknown"),
        pytest.param({"replicas": "2"}, "got string, want integer", id="wrong type"),
    ],
)
def test_kubeconform_would_find_a_fault(server, change, want_message, tmp_path):
    deployment = only(render(), "Deployment")
    faulty = {**deployment, "spec": deployment["spec"] | change}
    command = [delivery("kubeconform"), "-strict", "-schema-location"]
    command += [f"{server.schemas}/{LOCATION}", written([faulty], tmp_path / "faulty.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert want_message in done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_pod_passes_the_restricted_level(server, path):
    objects = render_file(path, namespace=server.namespace)
    template = only(objects, "Deployment")["spec"]["template"]
    template["spec"].pop("priorityClassName", None)  # its class is not there
    pods = [template, *of_kind(objects, "Pod")]
    for number, pod in enumerate(pods):
        metadata = {**pod["metadata"], "name": f"pod-{number}"}
        created = server.api.create(
            f"/api/v1/namespaces/{server.namespace}/pods",
            {**pod, "metadata": metadata},
            dryRun="All",
        )
        assert created["spec"]["securityContext"]["runAsNonRoot"]


def test_the_trainer_of_the_test_passes_it_too(server):
    data = only(render(namespace=server.namespace), "ConfigMap", "concertina-operator-test")["data"]
    job = json.loads(data["job.json"])
    job["metadata"] |= {"uid": "u", "generation": 1}
    pod = build_pod(job, parse_job(job).spec, name="concertina-test-0")

    assert server.api.create(f"/api/v1/namespaces/{server.namespace}/pods", pod, dryRun="All")


def test_the_alerts_are_rules_of_prometheus(tmp_path):
    rule = only(render_file(VALUES / "everything.yaml"), "PrometheusRule")
    file = written([rule["spec"]], tmp_path / "rules.yaml")
    promtool = built(next(tool for tool in MONITORING if tool.name == "promtool"))
    done = subprocess.run(
        [promtool, "check", "rules", file], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    number = sum(len(group["rules"]) for group in rule["spec"]["groups"])
    assert number > 0
    assert f"SUCCESS: {number} rules found" in done.stdout
