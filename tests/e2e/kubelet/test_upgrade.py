"""Operators and trainers of two commits, each with the other's: jobs do not notice."""

import pytest

from concertina_operator.cluster.install import install_objects
from tests.e2e.kubelet.commits import PREVIOUS, installed
from tests.e2e.kubelet.documents import growing
from tests.e2e.kubelet.operators import Operator, apply_objects
from tests.e2e.kubelet.runs import KubeletRun, applied
from tests.e2e.records import samples_in_order

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(600)]


@pytest.fixture
def previous():
    return installed(PREVIOUS)


@pytest.fixture
def before(node_cluster, operator, previous):
    """The previous operator, which leads; afterwards this commit's leads again."""
    earlier = Operator(operator.kubeconfig, operator.log, import_path=previous.import_path)
    operator.stop()
    apply_objects(node_cluster, previous.install_objects())
    earlier.start()
    yield earlier
    earlier.kill()
    operator.kill()
    apply_objects(node_cluster, install_objects(image="none"))
    operator.start()


def test_jobs_train_on_through_an_upgrade_of_the_operator_and_its_rollback(
    node_cluster, operator, previous, before, tmp_path
):
    one_pod = growing(pods={"min": 1, "max": 1})
    with (
        applied(node_cluster, operator, tmp_path / "one", one_pod) as one,
        applied(node_cluster, operator, tmp_path / "two", one_pod) as two,
    ):
        for run in (one, two):
            run.wait_steps(5)
        trained = {run: run.identities() for run in (one, two)}

        apply_objects(node_cluster, install_objects(image="none"))
        operator.replace(before)
        _grow(one)

        apply_objects(node_cluster, previous.install_objects())
        before.replace(operator)
        _grow(two)
        (joined,) = set(one.identities()) - set(trained[one])
        one.replace(joined, one.evict)

        for run in (one, two):
            assert trained[run].items() <= run.identities().items()
            run.finish()
            _check(run)


def test_trainers_of_the_previous_commit_are_served(node_cluster, operator, previous, tmp_path):
    with applied(node_cluster, operator, tmp_path / "run", growing(), change=previous.mount) as run:
        run.wait_steps(3, workers=2)
        before, leader = run.identities(), run.leader()
        run.replace(leader, run.evict)
        (survivor,) = set(before) - {leader}
        assert run.identities()[survivor] == before[survivor]
        run.finish()
        _check(run)


def _grow(run: KubeletRun) -> None:
    run.kubectl("scale", f"atj/{run.name}", "--replicas=2")
    run.wait_steps(3, workers=2)


def _check(run: KubeletRun) -> None:
    """No step was lost, rounds went on, and nobody took any of it for a failure."""
    steps = run.steps()
    assert run.discarded() == []
    assert samples_in_order(steps)
    rounds = [row["round"] for row in steps]
    assert rounds == sorted(rounds)
    status = run.status()
    assert status["round"] >= rounds[-1] > 1
    assert status.get("failures", {}).get("count", 0) == 0
