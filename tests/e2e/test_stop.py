"""Ctrl-C: once for a checkpoint and an orderly end, twice for the end at once; then resume."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.records import samples_in_order
from tests.e2e.runs import processes_of, started
from tests.play import play
from tests.tasks import job_document

SECONDS_TO_END_AT_ONCE = 15.0


def document(**changes: Any) -> dict[str, Any]:
    return job_document(config={"step_seconds": 0.05}, samples=4000, **changes)


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    with started(tmp_path / "run", document()) as run:
        run.wait_steps(3)
        run.interrupt()
        assert run.end() == 130
        assert run.summary()["outcome"] == "interrupted"
        stopped_at = run.steps()[-1]["step"]

    with started(tmp_path / "run", document()) as run:
        run.wait_steps(stopped_at + 5)
        run.interrupt()
        run.interrupt()
        asked = time.monotonic()
        assert run.end() == 130
        assert time.monotonic() - asked < SECONDS_TO_END_AT_ONCE
        assert processes_of(run.folder) == []
        steps = run.steps()
    assert run.discarded() == []
    assert samples_in_order(steps)

    short = job_document(samples=8 * len(steps))
    undisturbed = play(short, tmp_path / "undisturbed", {0: [0]})
    assert [row["loss"] for row in steps] == pytest.approx(undisturbed.losses, abs=1e-6)
