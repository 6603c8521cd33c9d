"""Checking a job's model and data set without training."""

from pathlib import Path
from typing import Any

import pytest

from concertina_api.errors import ConcertinaError, InvalidJob
from concertina_api.v1alpha1 import JobSpec
from concertina_trainer import validate
from concertina_trainer.validate import findings


def a_spec(**fields: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "model": "concertina_trainer.examples.bytes_lm:BytesLM",
            "config": {"width": 16, "heads": 2, "layers": 1},
            "samples": 400,
            "batch": {"microBatchSize": 4, "initial": 8, "max": 32},
        }
        | fields
    )


def test_finds_parameters_samples_and_steps() -> None:
    model, data, steps, _ = findings(a_spec())
    assert "parameters" in model
    assert "the run takes 400" in data
    assert steps == "steps: 13 at batch 32 to 50 at batch 8"


def test_a_run_in_epochs_is_told_in_samples() -> None:
    _, data, *_ = findings(a_spec(samples=None, epochs=0.5))
    assert data.endswith("(0.50 epochs)")


def test_tells_when_the_rule_decides() -> None:
    *_, rule = findings(a_spec(samples=100_000, learningRate={"warmupSamples": 3000}))
    assert rule == (
        "rule NormTest: decides every 4,000 samples after the first 3,000, on an average over 6,000"
    )
    *_, last = findings(a_spec(batch=a_spec().batch.model_dump() | {"rule": {"name": "Fixed"}}))
    assert last.startswith("steps: ")


@pytest.mark.parametrize(
    ("fields", "want_message"),
    [
        pytest.param({"model": "no.such:thing"}, "no module 'no'", id="module"),
        pytest.param(
            {"model": "concertina_trainer.examples.bytes_lm:Nothing"},
            "has no 'Nothing'",
            id="object",
        ),
        pytest.param({"config": {"widht": 8}}, "did you mean width", id="misspelt-config"),
        pytest.param({"config": {"width": 15}}, "width 15 is not a multiple", id="config-value"),
        pytest.param(
            {"batch": {"microBatchSize": 2**20, "initial": 2**20, "max": 2**20}},
            "fewer than one step",
            id="dataset-too-short",
        ),
        pytest.param(
            {"batch": {"microBatchSize": 4, "initial": 8, "max": 32, "rule": {"maxGrowth": 1.5}}},
            "maxGrowth 1.5 is below 2",
            id="growth-below-the-grid",
        ),
    ],
)
def test_says_what_is_wrong(fields: dict[str, Any], want_message: str) -> None:
    with pytest.raises(ConcertinaError, match=want_message) as caught:
        list(findings(a_spec(**fields)))
    assert caught.value.exit_code == InvalidJob.exit_code


def test_as_a_program_ends_with_a_message_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validate.main(str(tmp_path / "nowhere.yaml")) == 2
    assert "Error: cannot read" in capsys.readouterr().err
