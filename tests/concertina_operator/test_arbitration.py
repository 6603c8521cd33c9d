from datetime import timedelta

import pytest

from concertina_api.v1alpha1 import PodPhase
from concertina_operator.arbitration import arbitrate, commit_limit, disconnected
from tests.concertina_operator.factories import a_member, a_membership, a_standing, at


def a_voice(index, *suspects, probe=0, number=3, phase=None):
    """A member's report: Waiting when it suspects somebody."""
    phase = phase or (PodPhase.WAITING if suspects else PodPhase.TRAINING)
    names = tuple(f"tiny-lm-{suspect}" for suspect in suspects)
    return a_standing(index, round=number, suspects=names, probe=probe, phase=phase)


def verdict(standings, *, probe=0, probe_at=None, now=100, overdue=False, **membership):
    indices = membership.pop("members", range(len(standings)))
    return arbitrate(
        a_membership(3, *indices, probe=probe, **membership),
        standings,
        committed=not overdue,
        overdue=overdue,
        probe_at=None if probe_at is None else at(probe_at),
        confirm=timedelta(seconds=5),
        patience=timedelta(seconds=600),
        now=at(now),
    )


def lost(answer):
    return [entry.member.pod for entry in answer.lost]


def test_nobody_doubts_a_round_that_trains():
    assert verdict([a_voice(0), a_voice(1)]) is None


def test_a_suspicion_opens_a_probe():
    answer = verdict([a_voice(0, 1), a_voice(1)])
    assert answer.opens_probe
    assert answer.requeue_after == timedelta(seconds=5)
    assert "tiny-lm-0, who cannot reach tiny-lm-1" in answer.reason


@pytest.mark.parametrize(
    ("now", "want_lost", "want_wait"),
    [
        pytest.param(104, [], 1, id="not yet"),
        pytest.param(105, ["tiny-lm-1"], None, id="after lossConfirmSeconds"),
    ],
)
def test_an_accused_pod_that_does_not_echo_is_lost(now, want_lost, want_wait):
    standings = [a_voice(0, 1, probe=7), a_voice(1, probe=6), a_voice(2, probe=7)]
    answer = verdict(standings, probe=7, probe_at=100, now=now)
    assert lost(answer) == want_lost
    assert answer.renews == bool(want_lost)
    assert answer.requeue_after == (timedelta(seconds=want_wait) if want_wait else None)


def test_a_silent_pod_that_nobody_accuses_is_not_lost():
    standings = [a_voice(0, 1, probe=7), a_voice(1, probe=6), a_voice(2, probe=6)]
    assert lost(verdict(standings, probe=7, probe_at=100, now=105)) == ["tiny-lm-1"]


def test_silence_counts_only_when_an_accuser_echoes():
    standings = [a_voice(0, 1, probe=6), a_voice(1, probe=6), a_voice(2, probe=7)]
    answer = verdict(standings, probe=7, probe_at=100, now=105)
    assert (lost(answer), answer.renews) == ([], False)
    assert answer.requeue_after == timedelta(seconds=595)
    late = verdict(standings, probe=7, probe_at=100, now=700)
    assert lost(late) == ["tiny-lm-1"]


def test_if_all_echo_a_mutually_connected_set_stays_after_a_while():
    standings = [a_voice(0, 1, probe=7), a_voice(1, 0, 2, probe=7), a_voice(2, 1, probe=7)]
    early = verdict(standings, probe=7, probe_at=100, now=101)
    assert (early.renews, early.requeue_after) == (False, timedelta(seconds=4))
    answer = verdict(standings, probe=7, probe_at=100, now=105)
    assert answer.renews
    assert lost(answer) == ["tiny-lm-1"]


def test_a_slow_pod_that_is_reached_again_is_not_doubted_any_more():
    assert verdict([a_voice(0, probe=7), a_voice(1, probe=7)], probe=7, probe_at=100) is None


def test_what_a_silent_pod_said_before_it_fell_silent_cuts_nobody_off():
    standings = [a_voice(0, 1, probe=7), a_voice(1, 2, probe=6), a_voice(2, probe=7)]
    answer = verdict(standings, probe=7, probe_at=100, now=105)
    assert lost(answer) == ["tiny-lm-1"]


def test_an_accuser_that_falls_silent_itself_is_lost_after_a_long_while():
    standings = [a_voice(0, probe=7), a_voice(1, 2, probe=6), a_voice(2, probe=7)]
    answer = verdict(standings, probe=7, probe_at=100, now=105)
    assert (answer.renews, answer.requeue_after) == (False, timedelta(seconds=595))
    assert lost(verdict(standings, probe=7, probe_at=100, now=700)) == ["tiny-lm-1"]


def test_a_broken_round_of_which_all_echo_is_renewed_as_it_is():
    standings = [a_voice(0, probe=7, phase=PodPhase.WAITING), a_voice(1, probe=7)]
    answer = verdict(standings, probe=7, probe_at=100, now=101)
    assert (answer.renews, lost(answer)) == (True, [])


def test_complaints_about_an_earlier_round_are_not_heard():
    assert verdict([a_voice(0, 1, number=2), a_voice(1)]) is None


def test_who_has_left_a_committed_round_has_no_part_in_it():
    standings = [a_voice(0, 1), a_voice(1)]
    assert verdict(standings, members=[0], leaving=(a_member(1),)).opens_probe
    assert "tiny-lm-1" not in verdict(standings, members=[0], leaving=(a_member(1),)).reason


def test_of_an_overdue_round_whoever_is_silent_is_lost():
    standings = [a_voice(0, number=2), a_voice(1, number=2)]
    assert verdict(standings, overdue=True).opens_probe
    answered = [a_voice(0, number=2, probe=1), a_voice(1, number=2)]
    answer = verdict(answered, overdue=True, probe=1, probe_at=100, now=105)
    assert lost(answer) == ["tiny-lm-1"]
    both = [a_voice(0, number=2, probe=1), a_voice(1, number=2, probe=1)]
    answer = verdict(both, overdue=True, probe=1, probe_at=100, now=101)
    assert (answer.renews, lost(answer)) == (True, [])


@pytest.mark.parametrize(
    ("edges", "want_cut"),
    [
        pytest.param([], "", id="no accusation"),
        pytest.param(["01"], "1", id="of two the lower rank stays"),
        pytest.param(["10"], "1", id="whoever accuses"),
        pytest.param(["03", "13", "23"], "3", id="one that nobody reaches"),
        pytest.param(["02", "03", "04", "12", "13", "14"], "10", id="the larger part stays"),
        pytest.param(["02", "03", "12", "13"], "32", id="of equal parts the one with rank 0"),
    ],
)
def test_the_largest_mutually_connected_set_stays(edges, want_cut):
    ranks = {str(rank): rank for rank in range(5)}
    assert "".join(disconnected(ranks, [(edge[0], edge[1]) for edge in edges])) == want_cut


@pytest.mark.parametrize(
    ("number", "committed", "want_seconds"),
    [(3, 2, 30), (4, 2, 60), (5, 2, 120), (40, 2, 600), (2**40, 0, 600), (3, 3, 30)],
)
def test_a_round_gets_longer_with_every_one_that_was_not_acknowledged(
    number, committed, want_seconds
):
    limit = commit_limit(
        round_number=number, committed_round=committed, longest=timedelta(seconds=600)
    )
    assert limit == timedelta(seconds=want_seconds)
