"""Steps whose loss spikes, in a run of two workers."""

from pathlib import Path
from typing import Any

import pytest

from concertina_trainer.schedule.order import Shuffled
from concertina_trainer.schedule.spikes import FEWEST_STEPS
from tests.e2e.runs import LocalRun, started
from tests.tasks import job_document

SIZE, BATCH = 1024, 8
CALM = FEWEST_STEPS + 6
"""Steps before the first spike."""


def trained(folder: Path, *, spiking: range, code: int = 0, **training: Any) -> LocalRun:
    """A run in which the losses of these steps are five times what they should be."""
    order = Shuffled(num_samples=SIZE, seed=0)
    samples = range((spiking.start - 1) * BATCH, (spiking.stop - 1) * BATCH)
    document = job_document(
        model="tests.e2e.tasks:Spiky",
        samples=(CALM + 20) * BATCH,
        config={"spikes": [order.index(sample) for sample in samples], "size": SIZE},
        pods={"min": 2, "max": 2},
        scaling={"mode": "Auto"},
        training={"spikeDeviations": 20, **training},
        failurePolicy={"backoffLimit": 0},
    )
    with started(folder, document) as run:
        assert run.end() == code, run.account()
    return run


@pytest.mark.matrix
def test_a_step_whose_loss_spikes_is_skipped_and_the_run_goes_on(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", spiking=range(CALM, CALM + 1))
    skipped = {row["step"]: row["skipped"] for row in run.steps() if row.get("skipped")}
    assert skipped == {CALM: "Spike"}
    assert run.summary()["skipped_steps"] == 1
    assert f"step {CALM} is skipped, its loss" in run.output


def test_spikes_that_go_on_lead_back_to_the_snapshot_before_them(tmp_path: Path) -> None:
    run = trained(
        tmp_path / "run", spiking=range(CALM, CALM + 3), rollBackAfter=2, maxSkippedSteps=5
    )
    assert [row["step"] for row in run.steps() if row.get("skipped")] == [CALM + 2]
    left_out = [row["step"] for row in run.discarded()]
    assert left_out[-2:] == [CALM, CALM + 1]
    assert [row["step"] for row in run.steps()][-1] == CALM + 20
    report = run.report("tiny-0")
    assert report is not None
    assert report.progress is not None
    assert report.progress.rollbacks == 1
    assert report.progress.skipped_steps == 3


@pytest.mark.matrix
def test_spikes_without_end_fail_the_job_at_the_limit(tmp_path: Path) -> None:
    run = trained(
        tmp_path / "run", spiking=range(CALM, CALM + 20), rollBackAfter=2, maxSkippedSteps=3, code=1
    )
    assert "4 steps in a row were skipped (limit 3)" in run.output
    assert "because its loss spikes" in run.output
