"""What workers tell for the metrics, against the record of the same run."""

from pathlib import Path

import pytest

from concertina_api.errors import InvalidJob
from concertina_trainer.agent.mailbox import WorkerStatus, worker_file
from concertina_trainer.loop.measuring import tokens_per_sample
from tests.play import play
from tests.tasks import TinyTask, job_document


def told(played, pod):
    """The last status of a pod's worker."""
    return WorkerStatus.model_validate_json(
        worker_file(Path(played.folder, f"pod-{pod}"), 0).read_bytes()
    )


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A run under the norm test, which decides at every step; the second worker leads at its end."""
    rule = {"name": "NormTest", "horizonSamples": 500, "everySamples": 8, "maxGrowth": 2}
    job = job_document(
        samples=80,
        batch={"microBatchSize": 2, "initial": 8, "max": 8, "rule": rule},
        learningRate={"peak": 1e-3, "schedule": "Linear"},
    )
    return play(job, tmp_path_factory.mktemp("moved"), {0: [0], 2: [0, 1], 5: [1]})


def test_the_newest_step_is_measured_as_it_is_recorded(moved):
    status, row = told(moved, 1), moved.steps[-1]
    measured = status.measured

    assert status.progress.step == row["step"] == 10
    assert measured.learning_rate == pytest.approx(row["learning_rate"], abs=1e-8)
    assert measured.gradient_norm == pytest.approx(row["gradient_norm"], abs=1e-8)
    assert measured.accumulation_micro_batches == row["num_micro_batches"] == 4
    assert measured.noise_estimate_age_samples == 0


def test_the_ratio_is_that_of_the_decision_and_the_threshold_that_of_the_rule(moved):
    status, decision = told(moved, 1), moved.decisions[-1]
    ratio = status.measured.rule_ratio
    fraction = 1 / 0.8**2 - 1

    assert status.measured.rule_threshold == 2**0.5
    assert decision["requested"] - 1 < ratio * 8 <= decision["requested"]
    assert status.progress.noise_scale == pytest.approx(decision["noise_scale"], abs=1e-7)
    assert ratio * 8 == pytest.approx(fraction * status.progress.noise_scale)
    assert status.measured.gradient_variance > 0


def test_accumulation_is_what_one_worker_of_the_round_runs(moved):
    left = told(moved, 0)

    assert left.progress.world_size == 2
    assert left.measured.accumulation_micro_batches == 2


def test_state_is_safe_from_the_last_checkpoint_on(moved):
    leader, left = told(moved, 1), told(moved, 0)

    assert leader.checkpoint.step == 10
    assert leader.checkpoint_seconds > 0
    assert left.checkpoint is None
    assert left.checkpoint_seconds is None
    assert 0 < left.safe_at < leader.safe_at


@pytest.mark.parametrize(
    ("config", "batch", "want_age"),
    [
        pytest.param({}, 2, 6, id="one micro-batch says nothing"),
        pytest.param({"poison": [*range(4096)]}, 4, 12, id="a skipped step says nothing"),
    ],
)
def test_the_age_of_the_estimate_grows_while_steps_tell_nothing(tmp_path, config, batch, want_age):
    job = job_document(
        samples=3 * batch,
        config=config,
        batch={"microBatchSize": 2, "initial": batch, "max": batch, "rule": {"name": "NormTest"}},
    )
    played = play(job, tmp_path, {0: [0]})
    measured = told(played, 0).measured

    assert measured.noise_estimate_age_samples == want_age
    assert measured.gradient_variance is None
    assert (measured.gradient_norm is None) == bool(config)
    assert (measured.rule_ratio, measured.rule_threshold) == (None, None)


def test_a_rule_that_measures_nothing_waits_for_no_estimate(tmp_path):
    fixed = {"microBatchSize": 2, "initial": 2, "max": 2, "rule": {"name": "Fixed"}}
    played = play(job_document(samples=6, batch=fixed), tmp_path, {0: [0]})

    assert told(played, 0).measured.noise_estimate_age_samples is None


class Counting(TinyTask):
    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def tokens_per_sample(self):
        return self.tokens


def test_a_task_tells_its_tokens_or_does_not():
    assert tokens_per_sample(TinyTask()) is None
    assert tokens_per_sample(Counting(64)) == 64


@pytest.mark.parametrize("tokens", [0, -1, 2.5, "64"])
def test_tokens_that_are_no_number_are_refused(tokens):
    with pytest.raises(InvalidJob, match="tokens_per_sample"):
        tokens_per_sample(Counting(tokens))
