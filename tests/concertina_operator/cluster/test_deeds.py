import pytest

from concertina_api.v1alpha1 import JobStatus, PodCounts
from concertina_operator.actions import DeletePod, Event, EventType, Plan
from concertina_operator.cluster.deeds import Deeds, news

DELETED = DeletePod(name="tiny-lm-4", uid="u", reason="surplus: 2 wanted")


def an_event(reason):
    return Event(type=EventType.NORMAL, reason=reason, message="as planned")


PLAN = Plan(
    actions=(),
    status=JobStatus(pods=PodCounts(wanted=2)),
    events=tuple(
        an_event(reason) for reason in ("ScalingUp", "RoundPublished", "PodsCreated", "PodDeleted")
    ),
    requeue_after=None,
    reason="because",
)


@pytest.mark.parametrize(
    ("deeds", "want"),
    [
        pytest.param(Deeds(), {"ScalingUp": "as planned"}, id="nothing"),
        pytest.param(
            Deeds(has_published=True),
            {"ScalingUp": "as planned", "RoundPublished": "as planned"},
            id="a round",
        ),
        pytest.param(
            Deeds(created=["tiny-lm-1", "tiny-lm-0"], deleted=[DELETED]),
            {
                "ScalingUp": "as planned",
                "PodsCreated": "tiny-lm-0, tiny-lm-1 created, 2 wanted",
                "PodDeleted": "tiny-lm-4 deleted: surplus: 2 wanted",
            },
            id="pods",
        ),
        pytest.param(
            Deeds(refused={"RoleBinding": "forbidden"}),
            {"ScalingUp": "as planned", "RoleBindingRefused": "forbidden"},
            id="a refusal",
        ),
    ],
)
def test_people_are_told_what_was_done_and_not_what_was_meant_to_be(deeds, want):
    assert {event.reason: event.message for event in news(PLAN, deeds)} == want
