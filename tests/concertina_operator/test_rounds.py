import pytest

from concertina_api.v1alpha1 import Intent, Membership, Pods
from concertina_operator.attendance import Attendance, Lost
from concertina_operator.rounds import RoundReason, dismissed, next_round, reopened
from tests.concertina_operator.factories import a_member, a_membership

PODS = Pods.model_validate({"min": 1, "max": 4, "allowed": [1, 2, 4]})


def some(*indices):
    return tuple(a_member(index) for index in indices)


def gone(*indices):
    return tuple(Lost(member=a_member(index), reason="its pod is gone") for index in indices)


def following(present, *, wanted=4, pods=PODS, arbitrated=None, may_wait=False, **there):
    return next_round(
        present,
        Attendance(**({"committed": True} | there)),
        pods=pods,
        wanted=wanted,
        number=(present.round if present else 0) + 1,
        arbitrated=arbitrated,
        may_wait=may_wait,
    )


def who(members):
    return "".join(member.pod[-1] for member in members)


@pytest.mark.parametrize(
    ("here", "newcomers", "wanted", "want_members"),
    [
        pytest.param("0", "1", 2, "01", id="a joiner comes after the old"),
        pytest.param("0", "123", 4, "0123", id="all joiners that are wanted"),
        pytest.param("0", "12", 4, "01", id="only as many as make an allowed size"),
        pytest.param("0", "123", 2, "01", id="never more than wanted"),
        pytest.param("", "012", 4, "01", id="a start with what is warm"),
        pytest.param("3210", "", 2, "32", id="scale down drops the highest ranks"),
        pytest.param("012", "3", 4, "0123", id="from a forced size back to an allowed one"),
        pytest.param("012", "", 4, "012", id="a forced size is kept"),
        pytest.param("012", "", 2, "01", id="from a forced size down"),
    ],
)
def test_members_of_the_next_round(here, newcomers, wanted, want_members):
    present = a_membership(1, *map(int, here)) if here else None
    got = following(
        present, wanted=wanted, here=some(*map(int, here)), newcomers=some(*map(int, newcomers))
    )
    assert who(got.membership.members) == want_members
    is_new = who(got.membership.members) != here
    assert got.membership.round == (present.round if present else 0) + is_new


def test_a_first_round_waits_for_all_that_are_wanted():
    assert following(None, wanted=2, newcomers=some(0), may_wait=True).membership is None
    got = following(None, wanted=2, newcomers=some(0, 1), may_wait=True)
    assert (who(got.membership.members), got.reason) == ("01", RoundReason.STARTING)


def test_who_is_dropped_hands_over():
    got = following(a_membership(1, 0, 1, 2, 3), wanted=2, here=some(0, 1, 2, 3))
    assert who(got.membership.leaving) == "23"
    assert got.reason is RoundReason.SHRINKING


def test_one_round_may_join_leave_and_lose():
    got = following(
        a_membership(5, 0, 1, 2, 3),
        here=some(0, 1),
        leavers=some(2),
        lost=gone(3),
        newcomers=some(4, 5),
    )
    assert who(got.membership.members) == "0145"
    assert who(got.membership.leaving) == "2"
    assert who(got.membership.lost) == "3"
    assert got.message == (
        "round 6 of 4 pods; tiny-lm-4, tiny-lm-5 join; tiny-lm-2 leave;"
        " tiny-lm-3 is lost: its pod is gone"
    )


def test_a_loss_forces_a_size_that_is_not_allowed_and_says_so():
    got = following(a_membership(1, 0, 1, 2, 3), here=some(0, 1, 2), lost=gone(3))
    assert who(got.membership.members) == "012"
    assert "3 is forced, it is not an allowed size" in got.message


def test_an_open_round_is_not_replaced_for_a_joiner():
    present = a_membership(2, 0, 1)
    got = following(present, committed=False, here=some(0, 1), newcomers=some(2, 3))
    assert got.membership is present
    assert got.reason is RoundReason.ROUND_OPEN


@pytest.mark.parametrize(
    ("there", "want_members", "want_leaving"),
    [
        pytest.param({"here": some(0), "lost": gone(1)}, "0", "", id="a joiner died in it"),
        pytest.param({"here": some(0), "leavers": some(1)}, "0", "1", id="a member must leave"),
        pytest.param(
            {"here": some(0, 1), "handing_over": some(2), "lost": gone(3)},
            "01",
            "2",
            id="a leaver died in it, another still hands over",
        ),
    ],
)
def test_an_open_round_is_superseded_when_it_cannot_be_formed(there, want_members, want_leaving):
    got = following(a_membership(2, 0, 1), committed=False, **there)
    assert got.membership.round == 3
    assert who(got.membership.members) == want_members
    assert who(got.membership.leaving) == want_leaving


def test_who_was_lost_in_an_open_round_stays_listed():
    present = a_membership(2, 0, 1, lost=some(7))
    superseding = following(present, committed=False, here=some(0), lost=gone(1))
    assert who(superseding.membership.lost) == "71"
    after_commit = following(present, here=some(0), lost=gone(1))
    assert who(after_commit.membership.lost) == "1"


def test_arbitration_excludes_or_renews():
    present = a_membership(2, 0, 1, 2)
    excluding = following(present, here=some(0, 1, 2), arbitrated=gone(1))
    assert who(excluding.membership.members) == "02"
    assert who(excluding.membership.lost) == "1"
    renewed = following(present, here=some(0, 1, 2), arbitrated=())
    assert (who(renewed.membership.members), renewed.membership.round) == ("012", 3)
    assert renewed.reason is RoundReason.RENEWED


def test_if_all_leave_the_round_is_empty_and_says_run():
    got = following(a_membership(1, 0, 1), leavers=some(0, 1))
    assert (who(got.membership.members), who(got.membership.leaving)) == ("", "01")
    assert got.membership.intent is Intent.RUN


def test_if_nobody_remains_the_round_is_empty():
    got = following(a_membership(1, 0, 1), lost=gone(0, 1))
    assert (got.membership.members, who(got.membership.lost)) == ((), "01")


def test_what_the_operator_took_into_account_is_carried():
    present = a_membership(1, 0, probe=3, requestSequence=5)
    got = following(present, here=some(0), newcomers=some(1), wanted=2)
    assert (got.membership.probe, got.membership.request_sequence) == (3, 5)


@pytest.mark.parametrize("intent", [Intent.SUSPEND, Intent.STOP])
def test_dismissed_members_save_and_exit(intent):
    present = a_membership(4, 0, 1)
    there = Attendance(committed=True, here=some(0), leavers=some(1))
    got = dismissed(present, there, intent=intent, number=9)
    assert got.membership == Membership(round=9, intent=intent, leaving=some(0, 1))
    told = Attendance(committed=False, handing_over=some(0, 1))
    assert dismissed(got.membership, told, intent=intent, number=10).membership is got.membership


def test_nobody_is_dismissed_where_nobody_is():
    present = a_membership(4, 0)
    there = Attendance(committed=True, lost=gone(0))
    assert dismissed(present, there, intent=Intent.STOP, number=5).membership is present
    assert dismissed(None, there, intent=Intent.RUN, number=5).membership is None
    emptied = dismissed(present, there, intent=Intent.RUN, number=5).membership
    assert (emptied.members, who(emptied.lost)) == ((), "0")


def test_after_a_suspension_an_empty_round_says_run_first():
    present = a_membership(4, intent="Suspend", leaving=some(0))
    saving = Attendance(committed=False, handing_over=some(0))
    assert reopened(present, saving, number=5).membership is present
    got = reopened(present, Attendance(committed=True), number=5)
    assert got.membership == Membership(round=5)
    assert reopened(got.membership, Attendance(committed=True), number=6) is None
    assert reopened(None, Attendance(committed=True), number=1) is None
