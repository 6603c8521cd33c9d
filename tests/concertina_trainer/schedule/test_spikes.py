import json
import math
import random
import statistics

import pytest

from concertina_trainer.schedule.spikes import (
    FEWEST_STEPS,
    HORIZON_STEPS,
    Losses,
    Skipped,
    skipped,
)


def after(losses, start=None):
    state = start or Losses()
    for loss in losses:
        state = state.after(loss)
    return state


def noisy(number, *, mean=3.0, deviation=0.1, seed=0):
    draw = random.Random(seed)
    return [draw.gauss(mean, deviation) for _ in range(number)]


def weighted(losses):
    """Mean and deviation by their definition, the newest loss weighing 1."""
    kept = 1 - 1 / HORIZON_STEPS
    weights = [kept**age for age in reversed(range(len(losses)))]
    mean = sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)
    squares = sum(w * (x - mean) ** 2 for w, x in zip(weights, losses, strict=True))
    return mean, math.sqrt(squares / sum(weights))


@pytest.mark.parametrize("number", [1, 2, 64, 1000])
@pytest.mark.parametrize("mean", [3.0, 1e8])
def test_mean_and_deviation_are_what_their_definition_says(number, mean):
    losses = noisy(number, mean=mean)
    state, (want_mean, want_deviation) = after(losses), weighted(losses)
    assert state.mean == pytest.approx(want_mean, rel=1e-12)
    assert state.deviation == pytest.approx(want_deviation, rel=1e-3, abs=1e-12)


def test_what_is_older_than_the_horizon_hardly_counts():
    state = after([100.0] * 50 + noisy(20 * HORIZON_STEPS))
    assert state.mean == pytest.approx(3.0, abs=0.05)
    assert state.deviation == pytest.approx(0.1, rel=0.4)


@pytest.mark.parametrize(
    ("rise", "want"),
    [
        pytest.param(-50, False, id="a fall"),
        pytest.param(0, False, id="the mean"),
        pytest.param(5.9, False, id="just below"),
        pytest.param(6.1, True, id="just above"),
        pytest.param(1e6, True, id="far above"),
    ],
)
def test_a_spike_lies_so_many_deviations_above_the_mean(rise, want):
    state = after(noisy(500))
    loss = state.mean + rise * state.deviation
    assert state.is_spike(loss, deviations=6) is want


def test_nothing_is_a_spike_before_enough_is_known():
    losses = noisy(FEWEST_STEPS)
    assert not after(losses[:-1]).is_spike(1e9, deviations=2)
    assert after(losses).is_spike(1e9, deviations=2)


def test_a_run_without_spikes_skips_next_to_none_at_six_deviations():
    state, found = Losses(), 0
    for step, noise in enumerate(noisy(20_000, mean=0.0)):
        loss = 2.0 + 5.0 * math.exp(-step / 500) + noise
        found += state.is_spike(loss, deviations=6)
        state = state.after(loss)
    assert found == 0


def test_rounding_of_a_loss_that_stands_still_is_no_spike():
    state = after([0.25] * 200)
    assert not state.is_spike(0.25 * (1 + 1e-7), deviations=10)
    assert state.is_spike(0.26, deviations=10)


def test_losses_near_the_largest_number_begin_anew_and_never_become_nan():
    state = after([1e300, -1e300, 1e300])
    assert all(map(math.isfinite, (state.mean, state.squares, state.weight)))
    assert not state.is_spike(1.0, deviations=2)


def test_the_median_step_of_a_noisy_run_is_unlikely_to_be_called_a_spike():
    losses = noisy(300)
    assert not after(losses).is_spike(statistics.median(losses), deviations=2)


@pytest.mark.parametrize(
    ("finite", "loss", "deviations", "want"),
    [
        pytest.param(True, 3.0, 6.0, None, id="as ever"),
        pytest.param(True, 30.0, 6.0, Skipped.SPIKE, id="a spike"),
        pytest.param(True, 30.0, None, None, id="spikes are not asked for"),
        pytest.param(False, math.nan, 6.0, Skipped.NOT_FINITE, id="no number"),
        pytest.param(False, math.nan, None, Skipped.NOT_FINITE, id="no number, never asked for"),
    ],
)
def test_a_step_is_skipped_for_a_reason(finite, loss, deviations, want):
    before = after(noisy(200))
    assert skipped(loss, finite=finite, before=before, deviations=deviations) is want


def test_what_is_stored_is_what_is_read():
    state = after(noisy(200))
    assert Losses.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize(
    "change", [{"mean": math.nan}, {"squares": -1.0}, {"weight": math.inf}, {"seen": -1}]
)
def test_rubbish_is_refused(change):
    with pytest.raises(ValueError, match="losses are"):
        Losses.from_json(after([1.0]).to_json() | change)
