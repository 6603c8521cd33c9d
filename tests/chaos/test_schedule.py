"""Schedules are the same for the same seed, within their ranges, and cover all faults."""

import pytest

from tests.chaos.schedule import CLOSE_SECONDS, KINDS, MOST_STRIKES, Fault, Where, chosen, draw

SAMPLES = 1000
SEEDS = range(300)


@pytest.mark.parametrize("where", Where)
def test_a_seed_gives_the_same_schedule_again_and_others_give_others(where):
    first = [draw(seed, where=where, samples=SAMPLES) for seed in SEEDS]
    assert first == [draw(seed, where=where, samples=SAMPLES) for seed in SEEDS]
    assert len(set(first)) == len(first)


def test_a_seed_is_the_schedule_that_it_was():
    want = [
        "@306 kill-worker[0.87]",
        "+1.3s stop-pod[0.06] 3.3s",
        "@409 kill-worker[0.39]",
        "@438 delete-report[0.47]",
    ]
    assert [str(strike) for strike in draw(7, where=Where.LOCAL, samples=SAMPLES)] == want


@pytest.mark.parametrize("where", Where)
def test_all_faults_of_a_place_are_drawn_and_no_others(where):
    drawn = {strike.fault for seed in SEEDS for strike in draw(seed, where=where, samples=SAMPLES)}
    assert drawn == set(KINDS[where])


@pytest.mark.parametrize("where", Where)
def test_strikes_lie_within_the_run_and_their_ranges(where):
    for seed in SEEDS:
        strikes = draw(seed, where=where, samples=SAMPLES)
        assert 1 <= len(strikes) <= MOST_STRIKES
        assert strikes[0].at_samples is not None
        waited_for = [strike.at_samples for strike in strikes if strike.at_samples is not None]
        assert waited_for == sorted(waited_for)
        assert 0 < waited_for[0] <= waited_for[-1] < SAMPLES
        for strike in strikes:
            shortest, longest = KINDS[where][strike.fault].seconds
            assert shortest <= strike.seconds <= longest
            assert 0 <= strike.target < 1
            assert (strike.at_samples is None) != (strike.after_seconds is None)
            assert (strike.after_seconds or 0.0) <= CLOSE_SECONDS


def test_only_the_faults_that_are_asked_for_are_drawn():
    only = {Fault.KILL_WORKER, Fault.LEAVE}
    drawn = {
        strike.fault
        for seed in SEEDS
        for strike in draw(seed, where=Where.LOCAL, samples=SAMPLES, only=only)
    }
    assert drawn == only


def test_a_fault_that_is_not_possible_there_is_refused():
    with pytest.raises(ValueError, match="cut-network"):
        draw(0, where=Where.LOCAL, samples=SAMPLES, only=[Fault.CUT_NETWORK])


@pytest.mark.parametrize(
    ("target", "want"),
    [
        pytest.param(0.0, "a", id="first"),
        pytest.param(0.5, "b", id="middle"),
        pytest.param(0.999, "c", id="last"),
    ],
)
def test_a_target_picks_one_of_those_that_are_there(target, want):
    assert chosen("abc", target=target) == want


def test_a_target_picks_nobody_where_there_is_nobody():
    assert chosen((), target=0.5) is None
