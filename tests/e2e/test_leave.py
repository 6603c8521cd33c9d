"""SIGTERM to a pod in the middle of a step that is longer than its grace period."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.records import samples_in_order
from tests.e2e.runs import LocalRun, started
from tests.tasks import job_document, long_steps

pytestmark = pytest.mark.matrix
GRACE_SECONDS = 12
MICRO_BATCH_SECONDS = 0.75
NUM_MICRO_BATCHES = 16
"""Per worker: a step takes as long as the grace, so one that has just begun is dropped."""


def document(*, pods: int) -> dict[str, Any]:
    return job_document(
        config={"step_seconds": MICRO_BATCH_SECONDS, "size": 2 * NUM_MICRO_BATCHES * pods},
        samples=None,
        epochs=2.0,
        batch=long_steps(pods=pods, micro_batches=NUM_MICRO_BATCHES),
        pods={"min": 1, "max": pods},
    )


def test_the_only_pod_drops_its_step_saves_and_is_replaced(tmp_path: Path) -> None:
    with started(tmp_path / "run", document(pods=1), grace_seconds=GRACE_SECONDS) as run:
        run.wait_steps(1)
        _tell_to_leave(run, "tiny-0")
        assert run.end() == 0, run.account()
    assert run.discarded() == [], run.account()
    assert samples_in_order(run.steps())
    assert len(run.steps()) == 2
    logs = run.account()
    assert "step abandoned after" in logs
    assert "starting from checkpoint step-000000001" in logs


@pytest.mark.parametrize("leaver", ["tiny-0", "tiny-1"])
def test_a_step_that_cannot_end_in_time_is_run_again_by_those_who_stay(
    tmp_path: Path, leaver: str
) -> None:
    with started(tmp_path / "run", document(pods=2), grace_seconds=GRACE_SECONDS) as run:
        run.wait_steps(1, workers=2)
        _tell_to_leave(run, leaver)
        assert run.end() == 0, run.account()
    assert run.discarded() == [], run.account()
    assert samples_in_order(run.steps())
    assert [row["world_size"] for row in run.steps()] == [2, 1]
    assert "step abandoned after" in run.log(leaver)


def _tell_to_leave(run: LocalRun, pod: str) -> None:
    os.kill(run.agent(pod), signal.SIGTERM)
