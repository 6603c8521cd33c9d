from datetime import timedelta

import pytest

from concertina_api.v1alpha1 import CleanupPolicy, PodPhase, ScalingPolicy
from concertina_operator.acceptance import Standing
from concertina_operator.departures import InForce
from concertina_operator.observed import Phase
from concertina_operator.pods import cleanup, pod_changes
from tests.concertina_operator.factories import a_member, a_membership, a_pod, a_standing, at

POLICY = ScalingPolicy(ready_deadline_seconds=600, leave_deadline_seconds=60)
TRAINING = {"phase": PodPhase.TRAINING, "round": 1}
NOTICED = {"pod": {"notice": "node n1 has the taint x"}}


def changes(standings, *, membership=None, committed=True, since=0, wanted=1, now=10, **fields):
    defaults = {"ceiling": 4, "waiting_since": None, "not_before": None, "policy": POLICY}
    return pod_changes(
        "tiny-lm",
        standings,
        in_force=InForce(membership=membership, committed=committed, since=at(since)),
        wanted=wanted,
        now=at(now),
        **(defaults | fields),
    )


def created(answer):
    return [creation.index for creation in answer.create]


def deleted(answer):
    return {deletion.name[-1]: deletion.reason for deletion in answer.delete}


def test_missing_pods_get_the_lowest_numbers_that_no_pod_object_has():
    standings = [
        a_standing(0, **TRAINING),
        a_standing(2, pod={"deleting": True}),
        Standing(pod=a_pod(3, phase=Phase.PENDING)),
    ]
    answer = changes(standings, membership=a_membership(1, 0), wanted=4)
    assert created(answer) == [1, 4]
    assert [creation.name for creation in answer.create] == ["tiny-lm-1", "tiny-lm-4"]


def test_a_pod_is_given_back_by_the_time_that_this_process_has_seen_it():
    created, seen = at(-7200), at(5)
    answer = changes([Standing(pod=a_pod(0, created=created, seen=seen))], since=-7200)
    assert (answer.delete, answer.requeue_after) == ((), timedelta(seconds=595))
    answer = changes([Standing(pod=a_pod(0, created=created))], since=-7200)
    assert answer.given_back == ("tiny-lm-0",)


@pytest.mark.parametrize(
    ("standing", "want_reason"),
    [
        pytest.param(a_standing(1, pod={"exit_code": 1}), "ended with code 1", id="crashed"),
        pytest.param(a_standing(1, pod={"exit_code": 0}), "ended with code 0", id="ended well"),
        pytest.param(a_standing(1, pod={"phase": Phase.FAILED}), "phase Failed", id="evicted"),
        pytest.param(a_standing(1, phase=PodPhase.LEFT), "reports Left", id="has left"),
        pytest.param(
            a_standing(1, leaving=True),
            "told to end before it was in a round",
            id="told to end before it was in a round",
        ),
    ],
)
def test_a_pod_that_has_nothing_left_to_do_is_deleted_and_replaced(standing, want_reason):
    answer = changes([a_standing(0, **TRAINING), standing], membership=a_membership(1, 0), wanted=2)
    assert deleted(answer) == {"1": want_reason}
    assert created(answer) == [2]


def test_an_excluded_pod_is_killed_in_the_same_plan_but_not_its_restarted_workers():
    membership = a_membership(2, 0, lost=(a_member(1), a_member(2)))
    standings = [
        a_standing(0, **TRAINING),
        a_standing(1, **TRAINING),
        a_standing(2, incarnation="later"),
    ]
    answer = changes(standings, membership=membership, wanted=3)
    assert [(entry.name, entry.uid, entry.grace_seconds) for entry in answer.delete] == [
        ("tiny-lm-1", "uid-1", 0)
    ]
    assert created(answer) == [3]
    assert answer.starting == ("tiny-lm-2",)


@pytest.mark.parametrize(
    ("leaver", "committed", "now", "want_deleted"),
    [
        pytest.param({}, False, 10, {}, id="handing over"),
        pytest.param({}, True, 10, {"1": "handed over"}, id="the round is acknowledged"),
        pytest.param({"phase": PodPhase.LEFT}, False, 10, {"1": "handed over"}, id="it says so"),
        pytest.param({}, False, 60, {"1": "still there after 60 s"}, id="the deadline is over"),
        pytest.param({"leaving": True}, True, 59, {}, id="it exits by its own SIGTERM"),
        pytest.param(
            {"leaving": True}, True, 60, {"1": "still there after 60 s"}, id="it should have"
        ),
        pytest.param({"leaving": True}, False, 599, {}, id="it may take its grace period"),
        pytest.param(NOTICED, True, 10, {"1": "handed over"}, id="nobody has told it yet"),
        pytest.param(NOTICED, False, 599, {}, id="under notice it may take its time"),
        pytest.param(
            {"leaving": True}, False, 600, {"1": "still there after 600 s"}, id="it has hung"
        ),
    ],
)
def test_a_leaver_is_deleted_when_it_has_handed_over_or_too_late(
    leaver, committed, now, want_deleted
):
    membership = a_membership(2, 0, leaving=(a_member(1),))
    standings = [a_standing(0, **TRAINING), a_standing(1, **(TRAINING | leaver))]
    answer = changes(standings, membership=membership, committed=committed, now=now)
    assert deleted(answer) == want_deleted
    assert answer.create == ()


def test_deadlines_of_days_are_told_in_full():
    days = ScalingPolicy(ready_deadline_seconds=86_460, leave_deadline_seconds=86_400)
    membership = a_membership(2, 0, leaving=(a_member(1),))
    standings = [a_standing(0, **TRAINING), a_standing(1, **TRAINING), Standing(pod=a_pod(2))]
    answer = changes(
        standings, membership=membership, committed=False, wanted=2, now=90_000, policy=days
    )
    assert deleted(answer) == {
        "1": "still there after 86400 s",
        "2": "not admitted within 86460 s",
    }


@pytest.mark.parametrize(
    ("leaver", "want_created"),
    [
        pytest.param(a_standing(0, pod={"deleting": True}, **TRAINING), [], id="hands over"),
        pytest.param(a_standing(0, pod={"exit_code": 0}, **TRAINING), [1], id="has ended"),
    ],
)
def test_no_pod_is_created_while_as_many_as_max_hold_a_place(leaver, want_created):
    membership = a_membership(2, leaving=(a_member(0),))
    answer = changes([leaver], membership=membership, committed=False, ceiling=1)
    assert created(answer) == want_created


def test_surplus_pods_go_the_coldest_and_youngest_first():
    standings = [
        a_standing(0, **TRAINING),
        a_standing(1, phase=PodPhase.STARTING),
        a_standing(2, pod={"created": at(5)}),
        a_standing(3, pod={"created": at(4)}),
    ]
    answer = changes(standings, membership=a_membership(1, 0), wanted=2)
    assert deleted(answer) == {"1": "surplus: 2 wanted", "2": "surplus: 2 wanted"}


@pytest.mark.parametrize(
    ("now", "want_given_back", "want_wait"),
    [(609, (), 1), (610, ("tiny-lm-1",), None)],
)
def test_a_pod_that_is_not_admitted_in_time_is_given_back(now, want_given_back, want_wait):
    standings = [
        a_standing(0, **TRAINING),
        Standing(pod=a_pod(1, created=at(10), phase=Phase.PENDING)),
    ]
    answer = changes(standings, membership=a_membership(1, 0), wanted=2, now=now)
    assert answer.given_back == want_given_back
    assert answer.create == ()
    assert answer.requeue_after == (timedelta(seconds=want_wait) if want_wait else None)


def test_a_warm_pod_is_not_given_back_while_a_round_is_open():
    standings = [a_standing(0, **TRAINING), a_standing(1)]
    fields = {"membership": a_membership(1, 0), "wanted": 2, "now": 700}
    assert changes(standings, committed=False, **fields).given_back == ()
    assert changes(standings, **fields).given_back == ("tiny-lm-1",)


def test_creation_waits_for_the_end_of_a_back_off():
    answer = changes([], wanted=2, not_before=at(15))
    assert (answer.create, answer.requeue_after) == ((), timedelta(seconds=5))
    assert created(changes([], wanted=2, not_before=at(10))) == [0, 1]


def tidied(which, *standings, membership=None, now=10):
    return cleanup(
        standings,
        in_force=InForce(membership=membership, committed=False, since=at(0)),
        lost=(),
        which=which,
        policy=POLICY,
        ended_at=at(5),
        now=at(now),
    )


@pytest.mark.parametrize(
    ("which", "now", "want_deleted"),
    [
        (CleanupPolicy.NONE, 100, ""),
        (CleanupPolicy.RUNNING, 10, "12"),
        (CleanupPolicy.RUNNING, 65, "0124"),
        (CleanupPolicy.ALL, 10, "1234"),
    ],
)
def test_clean_up_waits_for_those_who_may_exit_by_themselves(which, now, want_deleted):
    answer = tidied(
        which,
        a_standing(0, **TRAINING),
        a_standing(1, phase=PodPhase.LEFT),
        a_standing(2, phase=PodPhase.STARTING),
        a_standing(3, pod={"exit_code": 0, "phase": Phase.SUCCEEDED}),
        a_standing(4, pod={"exit_code": 0}),  # its sidecar still runs
        membership=a_membership(2, leaving=(a_member(0), a_member(1), a_member(4))),
        now=now,
    )
    assert "".join(sorted(deleted(answer))) == want_deleted
    waits = which is not CleanupPolicy.NONE and now < 65
    assert answer.requeue_after == (timedelta(seconds=65 - now) if waits else None)
