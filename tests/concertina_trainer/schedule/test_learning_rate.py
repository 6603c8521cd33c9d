import pytest

from concertina_api.v1alpha1 import BatchLaw, LearningRate, ScheduleName
from concertina_trainer.schedule.learning_rate import batch_factor, learning_rate

TOTAL = 10_000


def spec_of(**changes):
    defaults = {"peak": 2.0, "warmup_samples": 1000, "final_fraction": 0.1}
    return LearningRate(**(defaults | changes))


def rate(spec, samples, batch=8, initial_batch=8):
    return learning_rate(
        spec, samples=samples, batch=batch, total_samples=TOTAL, initial_batch=initial_batch
    )


@pytest.mark.parametrize("schedule", ScheduleName)
@pytest.mark.parametrize(
    ("samples", "want_rate"),
    [
        pytest.param(0, 2.0 * 8 / 1000, id="the first step is not lost"),
        pytest.param(492, 1.0, id="half way"),
        pytest.param(1000, 2.0, id="peak"),
    ],
)
def test_every_schedule_warms_up_linearly(schedule, samples, want_rate):
    assert rate(spec_of(schedule=schedule), samples) == pytest.approx(want_rate)


@pytest.mark.parametrize(
    ("schedule", "samples", "want_rate"),
    [
        pytest.param("Cosine", 5500, 2.0 * 0.55, id="cosine, middle"),
        pytest.param("Cosine", TOTAL, 0.2, id="cosine, end"),
        pytest.param("Linear", 3250, 2.0 * 0.775, id="linear, first quarter"),
        pytest.param("Linear", TOTAL, 0.2, id="linear, end"),
        pytest.param("WSD", 7999, 2.0, id="wsd, stable"),
        pytest.param("WSD", 9000, 2.0 * 0.55, id="wsd, middle of the decay"),
        pytest.param("WSD", TOTAL, 0.2, id="wsd, end"),
        pytest.param("Constant", TOTAL, 2.0, id="constant, end"),
        pytest.param("Cosine", TOTAL + 500, 0.2, id="beyond the end"),
    ],
)
def test_the_schedule_has_its_shape(schedule, samples, want_rate):
    assert rate(spec_of(schedule=schedule), samples) == pytest.approx(want_rate)


def test_the_decay_of_wsd_can_be_given_in_samples():
    spec = spec_of(schedule="WSD", decay_samples=5000)
    assert rate(spec, 4999) == 2.0
    assert rate(spec, 7500) == pytest.approx(2.0 * 0.55)


@pytest.mark.parametrize("schedule", ["Cosine", "Linear", "WSD"])
def test_a_schedule_never_rises_after_warm_up(schedule):
    rates = [rate(spec_of(schedule=schedule), samples) for samples in range(1000, TOTAL, 50)]
    assert rates == sorted(rates, reverse=True)


def test_a_run_that_is_all_warm_up_ends_at_its_peak():
    assert rate(spec_of(warmup_samples=TOTAL), TOTAL - 8) == pytest.approx(
        rate(spec_of(schedule="Constant", warmup_samples=0), 0) * 0.1
    )
    assert rate(spec_of(warmup_samples=TOTAL), TOTAL - 16) == pytest.approx(2.0 * (1 - 8 / TOTAL))


@pytest.mark.parametrize(
    ("law", "batch", "want_factor"),
    [
        pytest.param("None", 128, 1.0, id="none"),
        pytest.param("Linear", 16, 2.0, id="linear"),
        pytest.param("Linear", 128, 4.0, id="linear, at the largest factor"),
        pytest.param("SquareRoot", 32, 2.0, id="square root"),
        pytest.param("SquareRoot", 128, 4.0, id="square root, at the largest factor"),
        pytest.param("SquareRoot", 512, 4.0, id="square root, above the largest factor"),
        pytest.param("SquareRoot", 2, 0.5, id="below the reference"),
    ],
)
def test_the_batch_law_scales_the_rate(law, batch, want_factor):
    spec = spec_of(batch_law=BatchLaw(law))
    assert batch_factor(spec, batch=batch, initial_batch=8) == pytest.approx(want_factor)
    assert rate(spec, 5000, batch=batch) == pytest.approx(want_factor * rate(spec, 5000))


def test_the_reference_batch_can_be_given():
    spec = spec_of(batch_law=BatchLaw.SQUARE_ROOT, reference_batch=32)
    assert batch_factor(spec, batch=8, initial_batch=8) == 0.5
