"""What `concertina run` says, and with which exit code, when a job cannot train."""

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import started
from tests.tasks import job_document

FIXED = {"microBatchSize": 2, "initial": 8, "max": 8, "rule": {"name": "Fixed"}}


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        pytest.param(
            {"batch": {**FIXED, "rule": {"name": "Fancy"}}}, "Fancy", id="a rule that is unknown"
        ),
        pytest.param({"sampels": 64}, "did you mean samples?", id="a field that is misspelt"),
        pytest.param(
            {"batch": {**FIXED, "initial": 7}},
            "initial 7 is not a multiple of microBatchSize 2",
            id="a batch that is impossible",
        ),
        pytest.param(
            {"model": "tests.e2e.tasks:ListOptimizer"},
            "history is a list; only tensors and numbers can move",
            id="optimizer state that cannot move",
            marks=pytest.mark.matrix,
        ),
        pytest.param(
            {"config": {"size": 4}},
            "dataset Tokens has 4 samples, fewer than one step: initial 8",
            id="a data set shorter than a step",
            marks=pytest.mark.matrix,
        ),
        pytest.param(
            {"model": "tests.e2e.tasks:NotOnMeta"},
            "cannot be built on the meta device",
            id="a model that fails on meta",
        ),
    ],
)
def test_a_mistake_of_the_user_ends_with_2_and_says_what_it_is(
    tmp_path: Path, changes: dict[str, Any], want: str
) -> None:
    with started(tmp_path / "run", job_document(**changes)) as run:
        assert run.end() == 2, run.account()
    assert want in run.output
    assert "Traceback" not in run.output


def test_a_port_that_is_taken_ends_with_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with started(tmp_path / "run", job_document(), "--metrics-port", port) as run:
            assert run.end() == 2
    assert f"metrics port {port} is taken" in run.output


def test_an_exception_of_the_task_fails_the_job_after_the_backoff_limit(tmp_path: Path) -> None:
    document = job_document(config={"fail_at": 3}, failurePolicy={"backoffLimit": 0})
    with started(tmp_path / "run", document) as run:
        assert run.end() == 1, run.account()
    assert "the task fails at step 3" in run.output
    assert run.summary()["outcome"] == "failed"


SCRIPT = """
from concertina_trainer import session
from tests.tasks import TinyTask

task = TinyTask()
with session("job.yaml", task) as training:
    for step in training:
        if training.progress.step == 2:
            {leave}
        with step:
            for batch in step.micro_batches():
                step.backward(task.loss(step.model, batch))
"""


@pytest.mark.parametrize(
    "leave", ["break", pytest.param("raise SystemExit", marks=pytest.mark.matrix)]
)
def test_a_script_that_leaves_its_loop_early_fails_and_is_told_how_to_end(
    tmp_path: Path, leave: str
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(leave=leave))
    document = job_document(failurePolicy={"backoffLimit": 0})
    with started(tmp_path / "run", document, "--script", str(script)) as run:
        assert run.end() == 1, run.account()
    assert "the loop was left at step 2, before the run has ended" in run.output
    assert "return StopTraining from the task's on_step" in run.output


@pytest.mark.matrix
def test_a_job_that_keeps_failing_is_tried_again_until_the_limit(tmp_path: Path) -> None:
    document = job_document(config={"fail_at": 3}, failurePolicy={"backoffLimit": 1})
    with started(tmp_path / "run", document) as run:
        assert run.end() == 1, run.account()
    assert "2 failures > backoffLimit 1" in run.output
    assert [row["step"] for row in run.discarded()] == [1, 2, 3]


@pytest.mark.matrix
def test_steps_that_are_not_finite_are_skipped_until_there_are_too_many(tmp_path: Path) -> None:
    samples = (3, *range(24, 64))  # poisoned wherever they come in the order
    document = job_document(
        config={"poison": list(samples), "size": 64},
        training={"maxSkippedSteps": 2},
        failurePolicy={"backoffLimit": 0},
    )
    with started(tmp_path / "run", document) as run:
        assert run.end() == 1, run.account()
    assert "3 steps in a row were skipped (limit 2)" in run.output
    assert "because its loss or gradient is not finite" in run.output
    skipped = [row for row in run.steps() if row.get("skipped")]
    assert len(skipped) >= 3
    assert run.summary()["skipped_steps"] == len(skipped)
    assert all(row["loss"] is None and row["skipped"] == "NotFinite" for row in skipped)
