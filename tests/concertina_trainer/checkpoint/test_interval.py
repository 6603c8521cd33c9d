"""The interval against the optimum of the expected waste, found by search."""

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concertina_trainer.checkpoint.interval import (
    FIRST_SECONDS,
    PRIOR_SECONDS,
    SHORTEST_SECONDS,
    Costs,
    chosen_seconds,
    daly,
    mean_seconds,
    young,
)


def expected_time(interval: float, *, cost: float, mean: float) -> float:
    """Expected seconds for each useful one: Daly 2006, losses at random, none while it restarts."""
    return mean * math.expm1((interval + cost) / mean) / interval


def best_interval(*, cost: float, mean: float) -> float:
    """By golden-section search over the logarithm; the expected time has one minimum."""
    low, high = math.log(cost / 100), math.log(10 * mean)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(200):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if expected_time(math.exp(left), cost=cost, mean=mean) < expected_time(
            math.exp(right), cost=cost, mean=mean
        ):
            high = right
        else:
            low = left
    return math.exp(low)


SHARES = st.floats(min_value=1e-7, max_value=0.5)
"""What a checkpoint costs, as a share of the mean time: beyond it nobody trains."""
MEANS = st.floats(min_value=1.0, max_value=1e7)


@given(share=SHARES, mean=MEANS)
def test_daly_wastes_hardly_more_than_the_best_interval_does(share: float, mean: float) -> None:
    cost = share * mean
    best = expected_time(best_interval(cost=cost, mean=mean), cost=cost, mean=mean)
    assert expected_time(daly(cost, mean), cost=cost, mean=mean) <= best * 1.002


@given(share=SHARES, mean=MEANS)
def test_daly_is_never_worse_than_young(share: float, mean: float) -> None:
    cost = share * mean
    one = expected_time(daly(cost, mean), cost=cost, mean=mean)
    assert one <= expected_time(young(cost, mean), cost=cost, mean=mean) * (1 + 1e-9)


def test_a_checkpoint_that_costs_more_than_losses_come_is_saved_once_between_two() -> None:
    assert daly(20.0, 10.0) == 10.0
    assert daly(1e6, 10.0) == 10.0


@given(share=SHARES, mean=MEANS, factor=st.floats(min_value=1.01, max_value=100))
def test_rarer_losses_never_shorten_the_interval(share: float, mean: float, factor: float) -> None:
    cost = share * mean
    assert daly(cost, mean * factor) >= daly(cost, mean) * (1 - 1e-9)


@pytest.mark.parametrize(
    ("lost_at", "training_seconds", "want"),
    [
        pytest.param([], 0.0, PRIOR_SECONDS, id="nothing is known"),
        pytest.param([], PRIOR_SECONDS, 2 * PRIOR_SECONDS, id="a day without a loss"),
        pytest.param([50.0], 600.0, 600.0, id="one: the prior counts no longer"),
        pytest.param([0.0, 0.0, 0.0], 0.0, SHORTEST_SECONDS, id="three before the first step"),
        pytest.param(range(60, 3_601, 60), 3_600.0, 60.0, id="one each minute for an hour"),
        pytest.param(
            range(1_000_000, 1_000_600, 60), 1_000_540.0, 60.0, id="a storm after calm weeks"
        ),
        pytest.param(range(60, 3_601, 60), 90_000.0, 10_860.0, id="a calm day after the storm"),
    ],
)
def test_the_mean_time_between_losses(
    lost_at: Iterable[float], training_seconds: float, want: float
) -> None:
    costs = Costs()
    for seconds in lost_at:
        costs = replace(costs, training_seconds=seconds).lost()
    assert mean_seconds(costs.marks, training_seconds) == pytest.approx(want)


def after_steps(costs: Costs, *steps: tuple[float, bool]) -> Costs:
    for seconds, writing in steps:
        costs = costs.after_step(seconds, slots=2, writing=writing)
    return costs


def test_the_cost_is_what_the_loop_waited_and_what_steps_took_longer() -> None:
    costs = after_steps(Costs(), (1.0, False), (1.0, False)).begun(0.25)
    costs = after_steps(costs, (1.5, True), (1.25, True)).saved()
    assert costs.cost_seconds == pytest.approx(0.25 + 0.75)
    assert costs.training_seconds == pytest.approx(4.75)


def test_steps_that_happen_to_be_faster_give_nothing_back() -> None:
    costs = after_steps(Costs(), (1.0, False)).begun(0.25)
    assert after_steps(costs, (0.5, True)).saved().cost_seconds == 0.25


def test_the_cost_is_smoothed_over_checkpoints() -> None:
    costs = Costs().begun(1.0).saved().begun(2.0).saved()
    assert costs.cost_seconds == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("costs", "longest", "writing", "want"),
    [
        pytest.param(Costs(), 600, 0.0, FIRST_SECONDS, id="nothing measured"),
        pytest.param(Costs(), 5, 0.0, 5, id="never longer than the longest"),
        pytest.param(
            Costs(cost_seconds=1e-6), 600, 0.0, SHORTEST_SECONDS, id="free of cost: the shortest"
        ),
        pytest.param(Costs(cost_seconds=1e-6), 600, 40.0, 80.0, id="a slow storage has a rest"),
        pytest.param(Costs(cost_seconds=1e5), 600, 0.0, 600, id="dear: the longest"),
        pytest.param(Costs(cost_seconds=1e5), 3, 600.0, 3, id="the longest wins"),
        pytest.param(
            Costs(cost_seconds=0.5), 600, 0.0, daly(0.5, PRIOR_SECONDS), id="by the formula"
        ),
    ],
)
def test_the_chosen_interval(costs: Costs, longest: float, writing: float, want: float) -> None:
    got = chosen_seconds(costs, longest=longest, writing_seconds=writing)
    assert got == pytest.approx(want)


def test_losses_make_it_shorter() -> None:
    costs = Costs(cost_seconds=0.5, training_seconds=86_400.0)
    intervals = []
    for _ in range(5):
        intervals.append(chosen_seconds(costs, longest=10**6, writing_seconds=0.0))
        costs = costs.lost()
    assert intervals == sorted(intervals, reverse=True)
    assert intervals[1] == pytest.approx(2 * intervals[4], rel=0.01)
