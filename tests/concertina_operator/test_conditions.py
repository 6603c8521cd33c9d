from concertina_api.v1alpha1 import Condition, ConditionType, JobStatus
from concertina_operator.conditions import Claim, condition, conditions, holds
from tests.concertina_operator.factories import at

READY = ConditionType.READY


def a_claim(*, holds=True, reason="Training", message="", kind=READY):
    return Claim(type=kind, holds=holds, reason=reason, message=message)


def test_the_time_of_transition_moves_only_with_the_status():
    first = conditions((), [a_claim()], generation=1, now=at(0))
    same = conditions(first, [a_claim(message="more")], generation=2, now=at(9))
    assert same[0].last_transition_time == at(0)
    assert (same[0].message, same[0].observed_generation) == ("more", 2)
    turned = conditions(same, [a_claim(holds=False)], generation=2, now=at(9))
    assert (turned[0].status, turned[0].last_transition_time) == ("False", at(9))


def test_what_is_not_claimed_is_kept_and_a_later_claim_wins():
    shells = Condition(type=ConditionType.TEMPLATE_VALID, status="False", reason="Conflict")
    got = conditions(
        (shells,), [a_claim(holds=False), a_claim(reason="Later")], generation=1, now=at(0)
    )
    assert [entry.type for entry in got] == [READY, ConditionType.TEMPLATE_VALID]
    assert got[1] == shells
    status = JobStatus(conditions=got)
    assert holds(status, READY)
    assert condition(status, READY).reason == "Later"
    assert condition(status, ConditionType.FAILED) is None


def test_messages_fit_into_their_field():
    got = conditions((), [a_claim(message="x" * 5000)], generation=1, now=at(0))
    assert Condition.model_validate(got[0].model_dump()) == got[0]


def test_a_claim_that_a_later_one_replaces_is_no_transition():
    first = conditions((), [a_claim()], generation=1, now=at(0))
    again = conditions(first, [a_claim(holds=False), a_claim()], generation=1, now=at(9))
    assert again == first
