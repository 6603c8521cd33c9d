import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concertina_trainer.schedule.estimator import Estimate, Smoothed, StepStatistics, estimate


def step_of(gradients, weights=None, samples=None):
    """Statistics of a step from its micro-batch mean gradients [N, d]."""
    weights = np.ones(len(gradients)) if weights is None else np.asarray(weights, float)
    mean = weights @ gradients / weights.sum()
    return StepStatistics(
        weighted_squares=float(weights @ np.square(gradients).sum(axis=1)),
        square_norm=float(mean @ mean),
        num_micro_batches=len(gradients),
        samples=int(samples or weights.sum()),
        weight=float(weights.sum()),
    )


def test_equal_weights_give_the_sample_variance_of_micro_batch_gradients():
    rng = np.random.default_rng(0)
    size, gradients = 8, rng.normal(size=(6, 40))
    new = estimate(step_of(gradients, weights=[size] * 6))
    want_variance = size * gradients.var(axis=0, ddof=1).sum()
    want_square_norm = np.square(gradients.mean(axis=0)).sum() - want_variance / (6 * size)
    assert new.gradient_variance == pytest.approx(want_variance)
    assert new.square_norm == pytest.approx(want_square_norm)


def test_the_unit_of_weight_does_not_matter():
    gradients = np.random.default_rng(1).normal(size=(4, 10))
    tokens = estimate(step_of(gradients, weights=[600, 200, 400, 400], samples=16))
    packed = estimate(step_of(gradients, weights=[6, 2, 4, 4]))
    assert tokens.gradient_variance == pytest.approx(packed.gradient_variance)
    assert tokens.square_norm == pytest.approx(packed.square_norm)


def test_one_micro_batch_gives_no_estimate():
    assert estimate(step_of(np.ones((1, 3)))) is None


def test_identical_micro_batches_have_no_variance():
    new = estimate(step_of(np.full((4, 5), 0.3)))
    assert new.gradient_variance == pytest.approx(0.0, abs=1e-12)
    assert new.square_norm == pytest.approx(5 * 0.3**2)


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([4, 4], id="two equal"),
        pytest.param([4] * 8, id="eight equal"),
        pytest.param([1] * 32, id="single samples"),
        pytest.param([3, 9, 20, 5, 40, 11], id="unequal"),
        pytest.param([1, 31], id="two unequal"),
    ],
)
def test_both_numbers_are_unbiased_where_the_covariance_is_known(sizes):
    """4,000 draws; the mean lies within 4 standard errors (99.99 %), which are below 5 %."""
    draws, dimension = 4000, 30
    rng = np.random.default_rng(sum(sizes))
    deviations = np.linspace(0.2, 3.0, dimension)
    direction = np.linspace(-1.0, 1.0, dimension)
    estimates = []
    for _ in range(draws):
        samples = direction + deviations * rng.normal(size=(sum(sizes), dimension))
        parts = np.split(samples, np.cumsum(sizes)[:-1])
        new = estimate(step_of(np.stack([part.mean(axis=0) for part in parts]), weights=sizes))
        estimates.append((new.gradient_variance, new.square_norm))
    means, errors = np.mean(estimates, axis=0), np.std(estimates, axis=0) / math.sqrt(draws)
    want = np.array([np.square(deviations).sum(), np.square(direction).sum()])
    assert (errors < 0.05 * want).all()
    assert (np.abs(means - want) < 4 * errors).all()


def test_the_average_forgets_by_samples_and_not_by_steps():
    new = Estimate(gradient_variance=6.0, square_norm=2.0)
    once = Smoothed().updated(new, samples=64, horizon_samples=500)
    often = Smoothed()
    for _ in range(8):
        often = often.updated(new, samples=8, horizon_samples=500)
    assert often.gradient_variance == pytest.approx(once.gradient_variance)
    assert once.weight == pytest.approx(1 - math.exp(-64 / 500))
    assert once.noise_scale == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("variance", "square_norm", "want_scale"),
    [
        pytest.param(6.0, 2.0, 3.0, id="both positive"),
        pytest.param(0.0, 2.0, 0.0, id="no variance"),
        pytest.param(-1e-9, -2.0, 0.0, id="variance rounded below zero"),
        pytest.param(6.0, 0.0, math.inf, id="no signal"),
        pytest.param(6.0, -1.0, math.inf, id="signal under the noise"),
    ],
)
def test_the_noise_scale_is_the_ratio_of_averages(variance, square_norm, want_scale):
    smoothed = Smoothed(gradient_variance=variance, square_norm=square_norm, weight=0.5)
    assert smoothed.noise_scale == want_scale


def test_there_is_no_noise_scale_before_the_first_estimate():
    assert Smoothed().noise_scale is None


@settings(deadline=None, max_examples=50)
@given(
    st.builds(
        Smoothed,
        **dict.fromkeys(
            ("gradient_variance", "square_norm", "weight"),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
    )
)
def test_averages_survive_json_exactly(smoothed):
    assert Smoothed.from_json(json.loads(json.dumps(smoothed.to_json()))) == smoothed
