"""Whose log is printed, and that it is."""

import json

import pytest
from click.testing import CliRunner

from concertina_operator.cli import main
from concertina_operator.cluster import paths
from concertina_operator.cluster.install import trainer_objects
from concertina_operator.commands.logs import NoSuchPod, choose_pod
from concertina_operator.commands.objects import path_of
from tests.cluster.api import has_condition
from tests.cluster.cluster import Cluster
from tests.cluster.pods import python_pod
from tests.concertina_operator.commands.documents import (
    a_job_document,
    a_live_job,
    a_membership_document,
    a_pod_document,
)
from tests.concertina_operator.factories import a_membership

PODS = (a_pod_document(1), a_pod_document(0))


@pytest.mark.parametrize(
    ("membership", "name", "want"),
    [
        pytest.param(None, None, "tiny-lm-0", id="the-oldest-before-the-first-round"),
        pytest.param(a_membership(1, 1, 0), None, "tiny-lm-1", id="the-leader"),
        pytest.param(a_membership(1), None, "tiny-lm-0", id="a-round-of-nobody"),
        pytest.param(a_membership(1, 7), None, "tiny-lm-0", id="a-leader-that-is-gone"),
        pytest.param(a_membership(1, 0, 1), "tiny-lm-1", "tiny-lm-1", id="by-name"),
    ],
)
def test_a_pod_is_chosen(membership: object, name: str | None, want: str) -> None:
    document = a_membership_document(membership) if membership else None
    live = a_live_job(*PODS, membership=document)
    assert choose_pod(live, name=name)["metadata"]["name"] == want


def test_a_pod_of_another_name_is_refused() -> None:
    with pytest.raises(NoSuchPod, match="no pod tiny-lm-9; it has tiny-lm-0, tiny-lm-1"):
        choose_pod(a_live_job(*PODS), name="tiny-lm-9")


def test_a_job_without_pods_has_no_log() -> None:
    live = a_live_job(job=a_job_document(status={"state": "Suspended"}))
    with pytest.raises(NoSuchPod, match="has no pods; it is Suspended"):
        choose_pod(live, name=None)


TWO_LINES = """
import time
print("one: \u00e4", flush=True)
time.sleep(1)
print("two", flush=True)
"""


def test_the_log_of_a_pod_is_followed_to_its_end(
    node_cluster: Cluster, node_namespace: str
) -> None:
    api = node_cluster.admin()
    for entry in trainer_objects():
        api.apply(path_of(entry), entry)
        if entry["kind"] == "CustomResourceDefinition":
            api.wait(path_of(entry), has_condition("Established"), "the kind is not served")
    document = {**a_job_document(), "metadata": {"name": "tiny-lm", "namespace": node_namespace}}
    api.create(paths.jobs(node_namespace), document)
    pod = python_pod("tiny-lm-0", "-c", TWO_LINES)
    pod["metadata"]["labels"] = {"concertina.dev/job": "tiny-lm"}
    api.create(paths.pods(node_namespace), pod)
    path = paths.pods(node_namespace, "tiny-lm-0")
    api.wait(path, lambda found: found["status"]["phase"] != "Pending", "the pod does not start")

    def log(*options: str) -> str:
        result = CliRunner().invoke(
            main,
            ["logs", "tiny-lm", "--namespace", node_namespace, *options],
            env={"KUBECONFIG": str(node_cluster.kubeconfig)},
        )
        assert result.exit_code == 0, result.output
        return result.stdout

    assert log("--follow") == "one: \u00e4\ntwo\n"
    assert log("--tail", "1") == "two\n"
    assert json.loads(log("--tail", "1", "-o", "json")) == {"pod": "tiny-lm-0", "line": "two"}
    api.delete(paths.jobs(node_namespace, "tiny-lm"))
    api.close()
