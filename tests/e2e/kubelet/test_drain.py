"""`kubectl drain` of the node under a job, and the notice before one: no optimizer step is lost."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from concertina_operator.cluster.pod import JOB_LABEL
from tests.cluster.layout import NODE_NAME
from tests.e2e.kubelet.documents import growing
from tests.e2e.kubelet.runs import KubeletRun, applied
from tests.e2e.records import samples_in_order

DRAIN_SECONDS = 150
TAINT = "ToBeDeletedByClusterAutoscaler"


@pytest.fixture
def usable_again(node_cluster):
    """Whatever becomes of the test, pods can be placed on the node afterwards."""
    yield
    node_cluster.run_kubectl("uncordon", NODE_NAME)
    node_cluster.run_kubectl("taint", "node", NODE_NAME, f"{TAINT}-", check=False)


@pytest.mark.matrix
def test_a_drain_moves_pods_one_by_one_and_takes_no_step_with_them(
    node_cluster, operator, usable_again, tmp_path
):
    with applied(node_cluster, operator, tmp_path / "run", growing()) as run:
        run.wait_steps(3, workers=2)
        drained = _uids(run)
        _allow_one_disruption(run)
        with ThreadPoolExecutor(1) as thread:
            drain = thread.submit(_drain, run)
            run.wait(lambda: len(drained & _uids(run)) == 1 < len(_uids(run)), "one pod moved")
            run.wait_steps(3, workers=1, after=run.steps()[-1]["time"])
            # The drain has closed the node: this is the other node that a cluster would have.
            node_cluster.run_kubectl("uncordon", NODE_NAME)
            said = drain.result()
        assert said.count("violate the pod's disruption budget") > 0
        run.wait(lambda: len(run.members()) == 2 and not drained & set(run.members()), "two moved")
        run.wait_steps(3, workers=2, after=run.steps()[-1]["time"])
        run.finish()
        assert run.discarded() == []
        assert samples_in_order(run.steps())
        assert run.status().get("failures", {}).get("count", 0) == 0


@pytest.mark.matrix
def test_pods_of_a_node_that_gives_notice_save_before_anybody_ends_them(
    node_cluster, operator, usable_again, tmp_path
):
    with applied(node_cluster, operator, tmp_path / "run", growing()) as run:
        step = run.wait_steps(3, workers=2)["step"]
        noticed = _uids(run)
        node_cluster.run_kubectl("taint", "node", NODE_NAME, f"{TAINT}=soon:NoSchedule")
        run.wait(lambda: not noticed & set(run.members()), "a round without the pods")
        assert "NoticeGiven" in _events(run)
        # The taint keeps their successors away: this is the other node that a cluster would have.
        node_cluster.run_kubectl("taint", "node", NODE_NAME, f"{TAINT}-")
        run.wait(lambda: len(run.members()) == 2 and not noticed & set(run.members()), "replaced")
        last = run.wait_steps(3, workers=2, after=run.steps()[-1]["time"])
        run.finish()
        assert last["step"] > step
        assert run.discarded() == []
        assert samples_in_order(run.steps())
        assert run.status().get("failures", {}).get("count", 0) == 0


def _events(run: KubeletRun) -> set[str]:
    path = f"/apis/events.k8s.io/v1/namespaces/{run.namespace}/events"
    return {event["reason"] for event in run.api.list(path)}


def _uids(run: KubeletRun) -> set[str]:
    return {pod["metadata"]["uid"] for pod in run.pods().values()}


def _allow_one_disruption(run: KubeletRun) -> None:
    budgets = f"/apis/policy/v1/namespaces/{run.namespace}/poddisruptionbudgets"
    labels = {"matchLabels": {JOB_LABEL: run.name}}
    spec = {"minAvailable": 1, "selector": labels}
    run.api.create(budgets, {"metadata": {"name": run.name}, "spec": spec})
    run.api.wait(
        f"{budgets}/{run.name}",
        lambda budget: budget.get("status", {}).get("disruptionsAllowed") == 1,
        "not one pod too many",
    )


def _drain(run: KubeletRun) -> str:
    """What `kubectl drain` says of the job's pods; it comes back when all have gone."""
    done = run.cluster.run_kubectl(
        "drain",
        NODE_NAME,
        f"--pod-selector={JOB_LABEL}={run.name}",
        "--delete-emptydir-data",
        f"--timeout={DRAIN_SECONDS}s",
    )
    return done.stdout + done.stderr
