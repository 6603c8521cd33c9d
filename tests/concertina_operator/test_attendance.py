import pytest

from concertina_api.v1alpha1 import PodPhase
from concertina_operator.acceptance import Standing
from concertina_operator.attendance import attendance
from concertina_operator.observed import Phase
from tests.concertina_operator.factories import a_member, a_membership, a_pod, a_standing, at


def who(members):
    return [member.pod for member in members]


def training(index, **report):
    return a_standing(index, **({"phase": PodPhase.TRAINING, "round": 1} | report))


def test_everyone_at_their_place():
    there = attendance(a_membership(1, 0, 1), [training(0), training(1)], committed_round=1)
    assert who(there.here) == ["tiny-lm-0", "tiny-lm-1"]
    assert there.alive == there.here
    assert (there.committed, there.lost, there.newcomers) == (True, (), ())


@pytest.mark.parametrize(
    ("standing", "want_reason"),
    [
        pytest.param(None, "its pod is gone", id="pod gone"),
        pytest.param(
            a_standing(1, pod={"uid": "another"}), "its pod is gone", id="pod of the same name"
        ),
        pytest.param(
            a_standing(1, pod={"exit_code": -9, "ending": "OOMKilled"}),
            "its trainer ended with code -9 (OOMKilled)",
            id="killed",
        ),
        pytest.param(a_standing(1, pod={"phase": Phase.FAILED}), "its pod is Failed", id="evicted"),
        pytest.param(
            training(1, incarnation="later"),
            "its workers were started anew (incarnation later)",
            id="workers restarted",
        ),
        pytest.param(
            training(1, phase=PodPhase.FAILED), "it reports that it has failed", id="gave up"
        ),
        pytest.param(training(1, phase=PodPhase.LEFT), "it reports that it has left", id="left"),
    ],
)
def test_a_member_is_lost_with_a_reason(standing, want_reason):
    present = [training(0)] + ([standing] if standing else [])
    there = attendance(a_membership(1, 0, 1), present, committed_round=1)
    assert who(there.here) == ["tiny-lm-0"]
    assert [(entry.member.pod, entry.reason) for entry in there.lost] == [
        ("tiny-lm-1", want_reason)
    ]


@pytest.mark.parametrize(
    "standing",
    [
        pytest.param(Standing(pod=a_pod(1)), id="its report has vanished"),
        pytest.param(training(1, phase=PodPhase.WAITING), id="it waits for a new round"),
        pytest.param(training(1, phase=PodPhase.STARTING), id="it says little"),
        pytest.param(a_standing(1, pod={"ready": False}), id="its readiness probe flaps"),
    ],
)
def test_a_member_is_not_lost_for_little(standing):
    there = attendance(a_membership(1, 0, 1), [training(0), standing], committed_round=1)
    assert who(there.here) == ["tiny-lm-0", "tiny-lm-1"]


@pytest.mark.parametrize(
    "standing",
    [
        pytest.param(a_standing(1, pod={"deleting": True}), id="deleted by somebody"),
        pytest.param(training(1, leaving=True), id="its own SIGTERM"),
    ],
)
def test_a_pod_that_was_told_to_end_leaves(standing):
    there = attendance(a_membership(1, 0, 1), [training(0), standing], committed_round=1)
    assert who(there.leavers) == ["tiny-lm-1"]
    assert who(there.here) == ["tiny-lm-0"]
    assert there.lost == ()


def test_a_pod_under_notice_leaves_as_if_told_and_the_notice_is_told():
    noticed = training(1, pod={"notice": "node n1 has the taint x"})
    there = attendance(a_membership(1, 0, 1), [training(0), noticed], committed_round=1)
    assert who(there.leavers) == ["tiny-lm-1"]
    assert there.notices == ("tiny-lm-1: node n1 has the taint x",)


@pytest.mark.parametrize(
    ("standing", "want_lost"),
    [
        pytest.param(a_standing(1, pod={"exit_code": 1, "notice": "n"}), True, id="has ended"),
        pytest.param(training(1, phase=PodPhase.FAILED, pod={"notice": "n"}), True, id="gave up"),
        pytest.param(a_standing(1, pod={"deleting": True, "notice": "n"}), False, id="is told"),
    ],
)
def test_a_notice_says_nothing_of_a_pod_that_has_ended_or_was_told(standing, want_lost):
    there = attendance(a_membership(1, 0, 1), [training(0), standing], committed_round=1)
    assert bool(there.lost) == want_lost
    assert there.notices == ()


@pytest.mark.parametrize(
    "report",
    [pytest.param({"port": 4001}, id="usual"), pytest.param({"port": None}, id="no store")],
)
def test_a_leaver_carries_the_grace_of_its_deletion(report):
    leaver = a_standing(1, pod={"deleting": True, "grace_seconds": 20}, **report)
    there = attendance(a_membership(1, 0, 1), [training(0), leaver], committed_round=1)
    assert [member.grace_seconds for member in (*there.here, *there.leavers)] == [None, 20]


@pytest.mark.parametrize(
    ("leaver", "want_handing_over", "want_lost"),
    [
        pytest.param(training(1), ["tiny-lm-1"], [], id="still at it"),
        pytest.param(training(1, phase=PodPhase.LEFT), [], [], id="done"),
        pytest.param(a_standing(1, pod={"exit_code": 0}), [], [], id="ended well"),
        pytest.param(a_standing(1, pod={"exit_code": 143}), [], ["tiny-lm-1"], id="killed"),
    ],
)
def test_a_leaver_hands_over_until_the_round_is_committed(leaver, want_handing_over, want_lost):
    membership = a_membership(2, 0, leaving=(a_member(1),))
    present = [training(0), leaver]
    there = attendance(membership, present, committed_round=1)
    assert not there.committed
    assert who(there.handing_over) == want_handing_over
    assert [entry.member.pod for entry in there.lost] == want_lost
    after = attendance(membership, present, committed_round=2)
    assert (after.committed, after.handing_over, after.lost) == (True, (), ())


@pytest.mark.parametrize(
    ("report", "want_committed"),
    [
        pytest.param({"round": 2}, False, id="being in a round is not its commit"),
        pytest.param(
            {
                "acknowledged": {
                    "round": 2,
                    "worldSizeBefore": 1,
                    "worldSize": 1,
                    "step": 4,
                    "pauseSeconds": 0.3,
                }
            },
            True,
            id="the leader acknowledges",
        ),
        pytest.param(
            {"progress": {"step": 5, "samples": 40, "round": 2}}, True, id="a step was done in it"
        ),
        pytest.param(
            {"progress": {"step": 5, "samples": 40, "round": 1}}, False, id="a step before it"
        ),
    ],
)
def test_a_round_is_committed_when_its_leader_says_so(report, want_committed):
    there = attendance(a_membership(2, 0), [training(0, **report)], committed_round=1)
    assert there.committed is want_committed


def test_an_empty_round_is_done_when_everyone_has_left():
    membership = a_membership(2, leaving=(a_member(0), a_member(1)))
    half = [training(0), training(1, phase=PodPhase.LEFT)]
    assert not attendance(membership, half, committed_round=1).committed
    done = [a_standing(0, pod={"exit_code": 137}), training(1, phase=PodPhase.LEFT)]
    there = attendance(membership, done, committed_round=1)
    assert (there.committed, there.lost) == (True, ())


def test_warm_pods_that_no_round_names_are_newcomers_the_oldest_first():
    standings = [
        training(0),
        a_standing(1, pod={"created": at(9)}),
        a_standing(2, pod={"created": at(3)}),
        a_standing(3, phase=PodPhase.STARTING),
        a_standing(10, pod={"created": at(3)}),
    ]
    there = attendance(a_membership(1, 0), standings, committed_round=1)
    assert who(there.newcomers) == ["tiny-lm-2", "tiny-lm-10", "tiny-lm-1"]


def test_restarted_workers_of_a_lost_member_are_a_newcomer_again():
    there = attendance(a_membership(1, 0), [a_standing(0, incarnation="later")], committed_round=1)
    assert [entry.member.incarnation for entry in there.lost] == ["i0"]
    assert [member.incarnation for member in there.newcomers] == ["later"]


def test_who_was_excluded_returns_only_with_another_incarnation():
    membership = a_membership(2, 0, lost=(a_member(1),))
    back = [training(0), training(1, phase=PodPhase.WAITING)]
    assert attendance(membership, back, committed_round=2).newcomers == ()
    anew = [training(0), a_standing(1, incarnation="later")]
    assert who(attendance(membership, anew, committed_round=2).newcomers) == ["tiny-lm-1"]


def test_a_member_is_named_at_the_store_that_it_serves_now():
    standing = training(0, port=5555, host="10.9.9.9")
    there = attendance(a_membership(1, 0), [standing], committed_round=1)
    assert [(member.host, member.port) for member in there.here] == [("10.9.9.9", 5555)]


def test_without_a_membership_pods_that_hold_state_come_first():
    standings = [a_standing(0), training(1)]
    there = attendance(None, standings, committed_round=3)
    assert who(there.newcomers) == ["tiny-lm-1", "tiny-lm-0"]
