import random
from dataclasses import replace
from statistics import mean

import pytest

from concertina_trainer.snapshot.interval import FIRST_STEPS, MAX_GROWTH, Interval


def after(interval, *, rounds, waited, step_seconds, busy_seconds, slots=4):
    """The interval after several snapshots, each under way in one step, with quiet ones between."""
    for _ in range(rounds):
        for _ in range(3):
            interval = interval.after_quiet(step_seconds, slots=slots)
        interval = interval.after_snapshot(waited, seconds=busy_seconds, slots=slots)
    return interval


@pytest.mark.parametrize(
    ("waited", "busy_seconds", "max_cost", "want"),
    [
        pytest.param(0.02, 0.5, 0.01, 4, id="only the wait: 0.02 / (0.01 x 0.5)"),
        pytest.param(0.02, 0.58, 0.01, 20, id="and a step that lasts longer"),
        pytest.param(0.02, 0.3, 0.01, 4, id="a step that was faster by chance earns nothing"),
        pytest.param(0.02, 0.58, 0.1, 2, id="a larger share"),
        pytest.param(0.0, 0.5, 0.01, 1, id="nothing to pay for: after every step"),
    ],
)
def test_settles_where_the_cost_is_the_share_that_is_allowed(waited, busy_seconds, max_cost, want):
    interval = after(
        Interval(max_cost=max_cost),
        rounds=40, waited=waited, step_seconds=0.5, busy_seconds=busy_seconds,
    )  # fmt: skip

    assert interval.every_steps == want
    assert interval.cost <= max_cost * (1 + 1e-9)


def varying(rounds, *, waited, busy_seconds, deviation):
    """The interval after each of several snapshots, of steps of half a second that vary."""
    chance = random.Random(0)
    interval, found = Interval(max_cost=0.01), []
    for _ in range(rounds):
        for _ in range(3):
            interval = interval.after_quiet(chance.gauss(0.5, deviation), slots=4)
        seconds = chance.gauss(busy_seconds, deviation)
        interval = interval.after_snapshot(waited, seconds=seconds, slots=4)
        found.append(interval.every_steps)
    return found


def test_steps_that_vary_by_chance_are_no_cost():
    found = varying(400, waited=0.05, busy_seconds=0.5, deviation=0.02)

    # 0.05 / (0.01 x 0.5) = 10; counting only the longer ones would add 0.4 x 0.02 to the cost.
    assert 10 <= mean(found[50:]) < 11


def test_the_first_difference_is_not_charged_and_a_second_like_it_is():
    interval = Interval(max_cost=0.01).after_quiet(0.5, slots=4)
    one = interval.after_snapshot(0.02, seconds=0.8, slots=4)
    two = one.after_snapshot(0.02, seconds=0.8, slots=4)

    assert one.every_steps == 4  # 0.02 / (0.01 x 0.5)
    assert two.every_steps == MAX_GROWTH * 4


def test_a_cost_below_the_noise_is_found_in_the_end():
    found = varying(1000, waited=0.0, busy_seconds=0.54, deviation=0.05)

    assert mean(found[:5]) < 8
    assert mean(found[500:]) == pytest.approx(0.04 / (0.01 * 0.5), rel=0.25)


@pytest.mark.parametrize("deviation", [0.03, 0.17])
def test_a_job_pays_its_share_in_the_long_run_and_is_soon_covered(deviation):
    chance = random.Random(0)
    interval, cost = Interval(max_cost=0.01), 0.1  # of a step of one second
    begun, under_way, taken, spent, ages = 0, True, 0, 0.0, []
    for step in range(1, 3001):
        seconds = chance.gauss(1.0, deviation)
        if under_way:
            taken, spent, under_way = taken + 1, spent + cost, False
            interval = interval.after_snapshot(
                0.0, seconds=seconds + cost, slots=8, is_bound=taken <= 2
            )
        else:
            interval = interval.after_quiet(seconds, slots=8)
            if step - begun >= interval.every_steps:
                begun, under_way = step, True
        ages.append(step - begun)

    assert spent / 3000 == pytest.approx(0.01, rel=0.2)
    assert mean(ages[:20]) < 4


def test_follows_when_steps_become_longer():
    short = after(
        Interval(max_cost=0.01), rounds=30, waited=0.088, step_seconds=0.5, busy_seconds=0.5
    )
    long = after(short, rounds=30, waited=0.088, step_seconds=2.0, busy_seconds=2.0, slots=16)

    assert (short.every_steps, long.every_steps) == (18, 5)


def test_one_slow_snapshot_moves_it_by_a_factor_at_most():
    calm = after(
        Interval(max_cost=0.01), rounds=30, waited=0.02, step_seconds=0.5, busy_seconds=0.5
    )
    startled = calm.after_snapshot(60.0, seconds=0.5, slots=4)

    assert startled.every_steps == MAX_GROWTH * calm.every_steps


def test_nothing_is_decided_before_a_quiet_step():
    interval = Interval(max_cost=0.01).after_snapshot(0.5, seconds=3.0, slots=4)

    assert interval.every_steps == FIRST_STEPS
    assert interval.cost == 0.0


def test_the_first_quiet_step_after_the_first_snapshot_shortens_the_interval():
    first = Interval(max_cost=0.01).after_snapshot(0.02, seconds=9.0, slots=4, is_bound=True)

    assert first.every_steps == FIRST_STEPS
    assert first.after_quiet(0.5, slots=4).every_steps == 4  # 0.02 / (0.01 x 0.5)


def test_memory_that_is_paid_once_lengthens_nothing():
    interval = Interval(max_cost=0.01).after_snapshot(3.0, seconds=9.0, slots=4, is_bound=True)

    assert interval.after_quiet(0.5, slots=4).every_steps == FIRST_STEPS


def test_a_snapshot_without_fresh_memory_replaces_what_was_known():
    bound = (
        Interval(max_cost=0.01)
        .after_snapshot(3.0, seconds=9.0, slots=4, is_bound=True)
        .after_quiet(0.5, slots=4)
    )
    measured = bound.after_snapshot(0.02, seconds=0.5, slots=4)

    assert measured.every_steps == 4
    assert measured.after_snapshot(3.0, seconds=9.0, slots=4, is_bound=True) == measured


def test_the_first_steps_of_a_round_are_compared_with_no_steps_of_another_world():
    before = after(
        Interval(max_cost=0.01), rounds=30, waited=0.02, step_seconds=0.5, busy_seconds=0.5
    )
    entered = before.in_new_world().after_snapshot(0.02, seconds=9.0, slots=3)

    assert entered.every_steps == before.every_steps
    assert entered.longer_seconds == before.longer_seconds


def test_a_snapshot_that_lasts_for_many_steps_lies_between_them():
    interval = Interval(max_cost=0.01).after_quiet(0.5, slots=4)
    for _ in range(20):
        interval = interval.after_snapshot(0.005, seconds=10.0, slots=80, num_steps=20)

    assert interval.every_steps == 1
    assert interval.between_steps == 21
    assert interval.cost == pytest.approx(0.005 / (21 * 0.5))


def test_frequent_losses_shorten_the_interval_to_what_is_best():
    calm = after(Interval(max_cost=0.01), rounds=30, waited=0.2, step_seconds=2.5, busy_seconds=2.5)
    rare, often = (replace(calm, loss_seconds=seconds) for seconds in (86_400.0, 60.0))

    assert calm.every_steps == rare.every_steps == 8  # 0.2 / (0.01 x 2.5)
    assert often.every_steps == 2  # sqrt(2 x 0.2 x 60) = 4.9 s


def test_an_interval_of_the_manifest_stays_and_its_cost_is_told():
    interval = after(
        Interval(max_cost=0.01, fixed=1), rounds=5, waited=0.1, step_seconds=0.5, busy_seconds=0.5
    )

    assert interval.every_steps == 1
    assert interval.cost == pytest.approx(0.1)  # every other step is quiet
