"""What becomes of jobs when somebody breaks in, or when a pod cannot run."""

import time
from typing import Any

import pytest

from tests.cluster.api import wait_for
from tests.e2e.kubelet.documents import growing
from tests.e2e.kubelet.runs import GRACE_SECONDS, applied, template
from tests.e2e.records import samples_in_order
from tests.tasks import job_document

KEPT_SECONDS = 60.0
ABSENT_IMAGE = "localhost/absent:1"
PULL_DEADLINE_SECONDS = 30
"""Longer than a pod needs to start."""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


@pytest.mark.usefixtures("collector")
def test_a_job_deleted_in_the_middle_of_a_resize_leaves_nothing(node_cluster, operator, folder):
    with applied(node_cluster, operator, folder, growing()) as run:
        run.wait_steps()
        run.wait_between_rounds(pods=2, members=1)
        asked = time.monotonic()
        run.delete()
        assert time.monotonic() - asked < GRACE_SECONDS


def test_an_operator_killed_in_the_middle_of_a_resize_is_missed_by_nobody(
    node_cluster, operator, folder
):
    with applied(node_cluster, operator, folder, growing()) as run:
        run.wait_steps()
        run.wait_between_rounds(pods=2, members=1)
        operator.kill()
        try:
            last = run.steps()[-1]
            run.wait_steps(5, after=last["time"])
        finally:
            operator.start()
        run.wait_steps(3, workers=2)
        assert sorted(run.pods()) == [f"{run.name}-0", f"{run.name}-1"]
        run.finish()
        assert run.discarded() == []
        assert samples_in_order(run.steps())
        assert run.status()["resizes"] == 1


@pytest.mark.matrix
@pytest.mark.usefixtures("collector")
def test_operator_job_and_namespace_can_go_in_this_order(node_cluster, operator, folder):
    with applied(node_cluster, operator, folder, growing()) as run:
        run.wait_steps(3, workers=2)
        operator.kill()
        try:
            asked = time.monotonic()
            run.delete()
            assert time.monotonic() - asked < GRACE_SECONDS
            node_cluster.run_kubectl(
                "delete", "namespace", run.namespace, f"--timeout={GRACE_SECONDS}s"
            )
            assert run.api.find(f"/api/v1/namespaces/{run.namespace}") is None
        finally:
            operator.start()


@pytest.mark.matrix
def test_jobs_with_sidecars_and_in_the_hosts_network_train_beside_each_other(
    node_cluster, operator, tmp_path
):
    document = growing()
    document["spec"]["scaling"]["leaveDeadlineSeconds"] = 5
    with (
        applied(node_cluster, operator, tmp_path / "a", document, change=_with_sidecar) as one,
        applied(node_cluster, operator, tmp_path / "b", document, change=_in_host_network) as two,
    ):
        for run in (one, two):
            run.wait_steps(3, workers=2)
        for run in (one, two):
            run.finish()
            assert run.discarded() == []
            assert samples_in_order(run.steps())
        wait_for(
            lambda: not one.pods(), lambda: f"a sidecar keeps {sorted(one.pods())}", KEPT_SECONDS
        )


@pytest.mark.matrix
def test_a_pod_that_is_ready_but_cold_is_in_no_round_and_waited_for_by_nobody(
    node_cluster, operator, folder
):
    document = growing(model="tests.e2e.tasks:Held", pods={"min": 1, "max": 1})
    with applied(node_cluster, operator, folder, document, change=_always_ready) as run:
        run.wait_steps()
        (folder / "hold").touch()
        run.kubectl("scale", f"atj/{run.name}", "--replicas=2")
        run.kubectl("wait", "pod", f"{run.name}-1", "--for=create", "--timeout=30s")
        run.kubectl("wait", "pod", f"{run.name}-1", "--for=condition=Ready", "--timeout=60s")
        ready_at = run.steps()[-1]["time"]
        run.wait_steps(50, workers=1, after=ready_at)
        assert len(run.members()) == 1
        (folder / "hold").unlink()
        run.wait_steps(3, workers=2)
        run.finish()
        assert run.discarded() == []
        assert samples_in_order(run.steps())


def test_a_task_that_raises_fails_the_job_in_its_own_words(node_cluster, operator, folder):
    document = job_document(config={"fail_at": 3}, failurePolicy={"backoffLimit": 0})
    with applied(node_cluster, operator, folder, document) as run:
        run.kubectl("wait", f"atj/{run.name}", "--for=condition=Failed", "--timeout=120s")
        assert "the task fails at step 3" in run.condition("Failed")["message"]


@pytest.mark.matrix
def test_a_pod_that_takes_more_memory_than_its_limit_fails_with_the_sizes(
    node_cluster, operator, folder
):
    document = job_document(
        config={"hog_at": 3}, pods={"min": 1, "max": 1}, failurePolicy={"backoffLimit": 0}
    )
    with applied(node_cluster, operator, folder, document, change=_with_a_memory_limit) as run:
        run.kubectl("wait", f"atj/{run.name}", "--for=condition=Failed", "--timeout=120s")
        failed = run.condition("Failed")
        assert failed["reason"] == "OutOfMemory"
        assert "the limit of the pod is 2.0 GiB" in failed["message"]


@pytest.mark.matrix
def test_a_job_whose_image_cannot_be_pulled_says_so_and_trains_once_it_can(
    node_cluster, operator, folder
):
    document = growing(
        pods={"min": 1, "max": 1}, scaling={"readyDeadlineSeconds": PULL_DEADLINE_SECONDS}
    )
    with applied(node_cluster, operator, folder, document, change=_with_absent_image) as run:
        run.wait(
            lambda: ABSENT_IMAGE in run.condition("PodsReady").get("message", ""),
            "the kubelet's words about the only pod",
        )
        run.edit(pods={"template": template(folder)})
        run.wait_steps()
        run.finish()
        assert run.status().get("failures", {}).get("count", 0) == 0


def test_pods_that_cannot_start_do_not_stop_the_others(node_cluster, operator, folder):
    document = growing(pods={"min": 1, "max": 1})
    with applied(node_cluster, operator, folder, document) as run:
        run.wait_steps(5)
        changed = template(folder)
        _with_absent_image(changed["spec"])
        run.edit(pods={"max": 2, "template": changed})
        run.wait(
            lambda: ABSENT_IMAGE in run.condition("PodsReady").get("message", ""),
            "the kubelet's words about the second pod",
        )
        run.wait_steps(5, workers=1, after=run.steps()[-1]["time"])
        run.finish()
        assert run.discarded() == []
        assert {row["round"] for row in run.steps()} == {1}


def _with_sidecar(pod: dict[str, Any]) -> None:
    (trainer,) = pod["containers"]
    sidecar = {name: trainer[name] for name in ("image", "imagePullPolicy", "volumeMounts")}
    sidecar |= {"name": "sidecar", "command": ["/usr/bin/sleep", "infinity"]}
    pod["containers"].insert(0, sidecar)


def _in_host_network(pod: dict[str, Any]) -> None:
    pod["hostNetwork"] = True


def _always_ready(pod: dict[str, Any]) -> None:
    (trainer,) = pod["containers"]
    trainer["readinessProbe"] = {"exec": {"command": ["/usr/bin/true"]}, "periodSeconds": 1}


def _with_a_memory_limit(pod: dict[str, Any]) -> None:
    (trainer,) = pod["containers"]
    trainer["resources"]["limits"]["memory"] = "2Gi"


def _with_absent_image(pod: dict[str, Any]) -> None:
    (trainer,) = pod["containers"]
    trainer["image"] = ABSENT_IMAGE
