"""Shipped manifests, trained for real on this machine by the command that they name."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from concertina_api.manifest import job_document
from tests.e2e.records import samples_in_order
from tests.e2e.runs import LocalRun, started

FOLDER = Path(__file__).parents[2] / "manifests"
GROWTH_SECONDS = 600.0
"""About 150 on two idle cores."""


def document(name: str, **changes: Any) -> dict[str, Any]:
    """The job of a manifest; `changes` replace parts of its spec."""
    found = job_document(list(yaml.safe_load_all((FOLDER / name).read_text())))
    assert isinstance(found, dict)
    return {**found, "spec": {**found["spec"], **changes}}


def completed(run: LocalRun, *, seconds: float = 120.0) -> list[dict[str, Any]]:
    """The steps of a run that came to its end."""
    assert run.end(seconds=seconds) == 0, run.account()
    steps = run.steps()
    assert samples_in_order(steps)
    assert run.discarded() == []
    return steps


def test_own_script_trains_with_its_own_loss(tmp_path: Path) -> None:
    """Its labels are smoothed, half as much at sample 4,096 as at first; evaluation's are not."""
    arguments = ("--script", str(FOLDER / "own_script.py"), "--samples", "4096")
    with started(tmp_path / "run", document("07-own-script.yaml"), *arguments) as run:
        steps = completed(run)
        (last,) = [row["evaluation"] for row in run.rows() if "evaluation" in row][-1:]
    assert steps[-1]["samples"] == 4096
    assert steps[-1]["loss"] < steps[0]["loss"]
    # No model does better than this on labels that are wrong in 5 of 100 cases.
    best = -(0.95 * math.log(0.95) + 0.05 * math.log(0.05))
    assert min(row["loss"] for row in steps) >= best
    assert last["validation"] < best


@pytest.mark.matrix
def test_own_script_lives_through_a_resize(tmp_path: Path) -> None:
    arguments = ("--script", str(FOLDER / "own_script.py"), "--samples", str(10**7))
    with started(tmp_path / "run", document("07-own-script.yaml"), *arguments) as run:
        run.wait_steps(1, workers=1)
        pid = run.worker("own-script-0").pid
        run.wait_steps(3, workers=2)
        assert run.worker("own-script-0").pid == pid
        run.interrupt()
        assert run.end() == 130, run.account()
    assert samples_in_order(run.steps())
    assert run.discarded() == []


@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_bounded_growth_stays_within_its_bounds(tmp_path: Path) -> None:
    with started(tmp_path / "run", document("04-bounded-growth.yaml")) as run:
        steps = completed(run, seconds=GROWTH_SECONDS)
    firsts = {row["global_batch_size"]: row for row in reversed(steps[:-1])}
    sizes = sorted(firsts)
    assert sizes == [8, 16, 32, 64][: len(sizes)]
    assert len(sizes) > 1, "it has not grown at all"
    begins = [firsts[size]["samples"] - size for size in sizes[1:]]
    assert begins[0] >= 2048 + 2048
    # A decision is acted on some steps later.
    assert all(later - sooner >= 2048 - 64 for sooner, later in pairwise(begins))
    resized = [
        after["time"]
        for before, after in pairwise(steps)
        if after["world_size"] != before["world_size"]
    ]
    # The cooldown of 120 s counts from when the pods were wanted; one may start faster than another.
    assert all(later - sooner >= 80 for sooner, later in pairwise(resized))


@pytest.mark.matrix
def test_several_gpus_are_as_many_workers_of_one_pod(tmp_path: Path) -> None:
    spec = document("05-several-gpus.yaml")
    with started(tmp_path / "run", spec, "--samples", "256") as run:
        steps = completed(run, seconds=240)
    assert {row["world_size"] for row in steps} == {4}
    assert {row["global_batch_size"] for row in steps} == {16}
    assert len(list(run.folder.glob("pods/*"))) == 1


@pytest.mark.matrix
def test_llama_is_measured_by_the_norm_test(tmp_path: Path) -> None:
    """As the manifest says, but for the sizes of the model."""
    (tmp_path / "data").mkdir()
    for name in ("train", "val"):
        tokens = np.arange(16 * 600 + 1, dtype="<u2") % 89
        tokens.tofile(tmp_path / "data" / f"{name}.bin")
    config = document("02-llama.yaml")["spec"]["config"]
    small = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = {**config, "context": 16, "model": {**config["model"], **small}}
    rate = {"peak": 0.003, "schedule": "WSD", "warmupSamples": 64, "batchLaw": "SquareRoot"}
    changed = document("02-llama.yaml", config=config, learningRate=rate, epochs=4)
    with started(tmp_path / "run", changed) as run:
        steps = completed(run)
    decided = [row for row in run.rows() if "decision" in row]
    acting = [row["decision"] for row in decided if not row.get("shadow")]
    watching = [row["decision"] for row in decided if row.get("shadow")]
    assert {decision["rule"] for decision in acting} == {"NormTest"}
    assert {decision["rule"] for decision in watching} == {"NoiseScale"}
    assert any("eta 0.8" in decision["reason"] for decision in acting)
    assert steps[-1]["loss"] < steps[0]["loss"]


@pytest.mark.matrix
def test_digits_follow_the_batch_that_was_placed_by_hand(tmp_path: Path) -> None:
    with started(tmp_path / "run", document("10-digits.yaml")) as run:
        steps = completed(run, seconds=300)
    stages = [
        (row["samples"] - row["global_batch_size"], row["global_batch_size"]) for row in steps
    ]
    # What a step decides, the second one after it runs.
    assert {batch for start, batch in stages if start < 7190} == {16}
    assert {batch for start, batch in stages if 7190 + 3 * 16 <= start < 14380} == {48}
    assert {batch for start, batch in stages[:-1] if start >= 14380 + 3 * 48} == {128}
