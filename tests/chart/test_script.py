"""The script of `helm test`, under the rights that the chart gives it; here the test is the operator."""

import base64
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from urllib.parse import urlsplit

import pytest
import yaml

from concertina_operator.cluster import paths
from tests.chart.helm import CHART, only, render
from tests.cluster.api import Api, wait_for
from tests.concertina_operator.cluster.installed import apply_all

NAME = "concertina-operator-test"
JOB = "concertina-test"
SCRIPT = CHART / "files/test_job.py"
SECONDS = 30.0


@pytest.fixture
def objects(namespace):
    """What the chart makes for a test in this namespace."""
    return render({"test": {"namespace": namespace}}, namespace=namespace)


@pytest.fixture
def path(namespace):
    return paths.jobs(namespace, JOB)


@pytest.fixture
def start(server, namespace, objects, tmp_path):
    """Starts the script as its pod would; it is ended with the test."""
    rights = [only(objects, kind, NAME) for kind in ("ServiceAccount", "Role", "RoleBinding")]
    apply_all(server.api, rights)
    kubeconfig = server.cluster.service_account_kubeconfig(
        tmp_path / "kubeconfig", namespace=namespace, name=NAME
    )
    # The API server learns of rights by watching; a pod takes longer to start.
    with closing(Api(kubeconfig)) as account:
        wait_for(lambda: may_create(account, namespace), lambda: "no right to create jobs")
    document = yaml.safe_load(kubeconfig.read_text())
    authority = document["clusters"][0]["cluster"]["certificate-authority-data"]
    (tmp_path / "ca.crt").write_bytes(base64.b64decode(authority))
    (tmp_path / "token").write_text(document["users"][0]["user"]["token"])
    (tmp_path / "job.json").write_text(only(objects, "ConfigMap", NAME)["data"]["job.json"])
    address = urlsplit(server.cluster.url)
    environment = os.environ | {
        "KUBERNETES_SERVICE_HOST": str(address.hostname),
        "KUBERNETES_SERVICE_PORT": str(address.port),
    }
    running = []

    def run(seconds=SECONDS):
        command = [sys.executable, "-u", SCRIPT, tmp_path / "job.json", str(seconds), tmp_path]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def may_create(account, namespace):
    attributes = {"group": paths.GROUP, "resource": paths.JOBS, "verb": "create"}
    review = account.create(
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        {"spec": {"resourceAttributes": attributes | {"namespace": namespace}}},
    )
    return review["status"]["allowed"]


def wait_job(server, path, script):
    """Wait for the job that the script makes."""

    def is_there():
        assert script.poll() is None, script.stdout.read()
        return server.api.find(path)

    wait_for(is_there, lambda: "no job", SECONDS)


def answer(server, path, script, *conditions):
    """Say of the job what an operator would, once it is there."""
    wait_job(server, path, script)
    status = {"state": conditions[-1]["type"], "conditions": list(conditions)}
    server.api.patch(f"{path}/status", {"status": status})


def condition(name, status="True", message=""):
    return {"type": name, "status": status, "reason": "Tested", "message": message}


def test_a_job_that_completes_is_deleted_and_the_test_passes(server, path, start):
    script = start()
    answer(server, path, script, condition("Ready", "False"), condition("Completed"))
    printed, _ = script.communicate(timeout=SECONDS)

    assert script.returncode == 0, printed
    assert f"{JOB} completed in " in printed
    assert server.api.find(path) is None


def test_a_job_that_fails_is_told_in_its_own_words_and_deleted(server, path, start):
    script = start()
    faults = condition("TemplateValid", "False", "no such image"), condition("Failed")
    answer(server, path, script, *faults)
    printed, _ = script.communicate(timeout=SECONDS)

    assert script.returncode == 1
    assert "did not complete" in printed
    assert "TemplateValid=False Tested: no such image" in printed
    assert server.api.find(path) is None


def test_a_job_that_nobody_serves_is_told_so_and_deleted(server, path, start):
    script = start(seconds=0)
    printed, _ = script.communicate(timeout=SECONDS)

    assert script.returncode == 1
    assert "no operator has looked at it" in printed
    assert server.api.find(path) is None


def test_a_job_that_an_earlier_test_left_is_made_anew(server, path, start, objects):
    left = json.loads(only(objects, "ConfigMap", NAME)["data"]["job.json"])
    old = server.api.create(path.rpartition("/")[0], left)["metadata"]["uid"]
    script = start()
    server.api.wait(path, lambda job: job["metadata"]["uid"] != old, "the old one is still there")
    answer(server, path, script, condition("Completed"))
    printed, _ = script.communicate(timeout=SECONDS)

    assert script.returncode == 0, printed


def test_a_test_that_is_cut_off_takes_its_job_along(server, path, start):
    script = start()
    wait_job(server, path, script)
    script.send_signal(signal.SIGTERM)
    script.communicate(timeout=SECONDS)

    assert script.returncode == 1
    assert server.api.find(path) is None


def test_a_job_that_no_test_made_is_left_as_it_is(server, path, start, objects):
    other = json.loads(only(objects, "ConfigMap", NAME)["data"]["job.json"])
    del other["metadata"]["labels"]
    uid = server.api.create(path.rpartition("/")[0], other)["metadata"]["uid"]
    script = start()
    printed, _ = script.communicate(timeout=SECONDS)

    assert script.returncode == 1
    assert f"{JOB} is there, and is of no test" in printed
    assert server.api.get(path)["metadata"]["uid"] == uid


def test_a_field_of_the_values_that_no_job_has_is_told(start, tmp_path):
    job = json.loads((tmp_path / "job.json").read_text())
    job["spec"]["sampels"] = 8
    (tmp_path / "job.json").write_text(json.dumps(job))
    script = start()
    printed, _ = script.communicate(timeout=SECONDS)

    assert script.returncode == 1
    assert 'unknown field "spec.sampels"' in printed


def test_what_the_api_server_refuses_is_told_in_its_words(start, tmp_path):
    job = json.loads((tmp_path / "job.json").read_text())
    del job["spec"]["batch"]
    (tmp_path / "job.json").write_text(json.dumps(job))
    script = start()
    printed, _ = script.communicate(timeout=SECONDS)

    assert script.returncode == 1
    assert "the API server answered 422" in printed
    assert "spec.batch: Required value" in printed
