"""A worker that is slow is not taken for lost: it is named, and everybody trains on."""

from pathlib import Path

import pytest

from tests.chaos.faults_processes import slowed
from tests.chaos.processes import of_run
from tests.e2e.runs import LocalRun, started
from tests.tasks import job_document

pytestmark = pytest.mark.matrix

STANDS_SECONDS = 0.4
NUM_STEPS = 200


def slow_pods(run: LocalRun) -> set[str]:
    """Those that any worker names."""
    return {pod for status in run.workers().values() for pod in status.slow}


def test_who_is_slow_is_named_and_nobody_is_lost(tmp_path: Path) -> None:
    document = job_document(
        config={"step_seconds": 0.05}, samples=8 * NUM_STEPS, pods={"min": 2, "max": 2}
    )
    with started(tmp_path / "run", document) as run:
        run.wait_steps(5, workers=2)
        follower = run.membership().members[-1].pod
        pid = run.worker(follower).pid
        worker = next(each for each in of_run(run.folder) if each.process.pid == pid)
        with slowed(worker, stands_seconds=STANDS_SECONDS):
            run.wait(lambda: slow_pods(run) == {follower}, f"{follower} is named as slow")
        run.wait(lambda: not slow_pods(run), f"{follower} is named no more")
        assert run.end() == 0, run.account()
    assert [row["samples"] for row in run.steps()] == list(range(8, 8 * NUM_STEPS + 1, 8))
    assert run.discarded() == []
    assert {row["round"] for row in run.steps() if row["world_size"] == 2} == {
        run.steps()[-1]["round"]
    }
    assert f"the others wait for {follower}" in run.output
