"""A network that falls into two halves, both of which the operator still reaches."""

import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e import halves
from tests.e2e.records import samples_in_order
from tests.e2e.runs import started
from tests.tasks import job_document

pytestmark = pytest.mark.matrix


@pytest.fixture
def network() -> Iterator[None]:
    with halves.joined():
        yield


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("pods", "left", "want_lost"),
    [
        pytest.param(2, "tiny-0", {"tiny-1"}, id="of equal halves the one of rank 0 stays"),
        pytest.param(3, "tiny-0", {"tiny-0"}, id="else the larger one"),
    ],
)
def test_one_half_goes_on_and_the_other_comes_back_as_joiners(
    tmp_path, pods: int, left: str, want_lost: set[str], record_property: Callable[..., None]
) -> None:
    document = job_document(
        model="tests.e2e.tasks:UntilTold",
        config={"folder": str(tmp_path), "step_seconds": 0.05},
        samples=10**6,
        batch={"microBatchSize": 2, "initial": 12, "max": 12, "rule": {"name": "Fixed"}},
        pods={"min": pods, "max": pods},
        scaling={"scaleUpCooldownSeconds": 0},
        checkpoint={"path": "checkpoints", "everySeconds": 1},
    )
    agent = (sys.executable, "-m", "tests.e2e.halves", left)
    with started(tmp_path / "run", document, grace_seconds=60, agent_command=agent) as run:
        run.wait_steps(5, workers=pods)
        assert run.leader() == "tiny-0"
        before = {pod: status.pid for pod, status in run.workers().items()}
        number = run.steps()[-1]["round"]
        halves.cut()
        begun = time.monotonic()
        lost = run.wait(
            lambda: m.lost if (m := run.membership()) and m.round > number else None, "a loss"
        )
        record_property("seconds from the cut to the round of one half", time.monotonic() - begun)
        halves.heal()
        run.wait_steps(3, workers=pods, after=time.time())
        after = {pod: status.pid for pod, status in run.workers().items()}
        (tmp_path / "stop").touch()
        assert run.end() == 0

    assert {member.pod for member in lost} == want_lost
    assert {pod for pod in before if before[pod] == after.get(pod)} == set(before) - want_lost
    steps = run.steps()
    assert samples_in_order(steps)
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
