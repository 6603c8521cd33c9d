from datetime import timedelta

import pytest

from concertina_api.v1alpha1 import Condition, ConditionType, JobStatus
from concertina_operator.actions import (
    CreatePod,
    DeletePod,
    Event,
    EventType,
    Plan,
    PublishMembership,
)
from concertina_operator.cluster.claims import (
    Verdict,
    claims,
    is_managed_here,
    news,
    refusals_told,
    time_to_expiry,
    warnings,
    with_retries,
    without_creations,
    without_membership,
)
from concertina_operator.cluster.facts import HeardReport
from concertina_operator.cluster.refusals import Refusals
from tests.concertina_operator.cluster.templates import a_container, a_templated_spec
from tests.concertina_operator.factories import a_membership, a_spec, at

BAD = Verdict(is_valid=False, reason="Refused", message="unknown field imagee")
GOOD = Verdict(is_valid=True, reason="Accepted", message="fine")
DURABLE = a_templated_spec(
    a_container(volumeMounts=[{"name": "disk", "mountPath": "/checkpoints"}]),
    volumes=[{"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}],
).model_copy(update={"checkpoint": a_spec(checkpoint={"path": "/checkpoints"}).checkpoint})


def a_plan(*actions, events=()):
    return Plan(
        actions=actions, status=JobStatus(), events=events, requeue_after=None, reason="because"
    )


def claimed(spec=DURABLE, *, before=None, verdict=None, taken=()):
    found = claims(spec, before=before or JobStatus(), verdict=verdict, taken=taken)
    return {claim.type: claim for claim in found}


@pytest.mark.parametrize(
    ("managed_by", "want"),
    [(None, True), ("", True), ("concertina.dev/operator", True), ("kueue.x-k8s.io/multi", False)],
)
def test_a_job_that_names_another_manager_is_not_ours(managed_by, want):
    assert is_managed_here({"spec": {"managedBy": managed_by}}) is want


@pytest.mark.parametrize("verdict", [BAD, GOOD])
def test_the_verdict_on_the_template_is_a_condition(verdict):
    claim = claimed(verdict=verdict)[ConditionType.TEMPLATE_VALID]
    assert (claim.holds, claim.message) == (verdict.is_valid, verdict.message)


def test_nothing_is_said_of_a_template_that_was_not_tried():
    assert ConditionType.TEMPLATE_VALID not in claimed()


def test_checkpoints_are_durable_on_a_volume_that_outlives_the_pod():
    assert claimed()[ConditionType.CHECKPOINT_DURABLE].holds
    assert not claimed(a_templated_spec())[ConditionType.CHECKPOINT_DURABLE].holds


def test_a_taken_name_is_a_condition_until_it_is_free():
    assert ConditionType.NAME_TAKEN not in claimed()
    claim = claimed(taken=["pod tiny-lm-0: belongs to nobody"])[ConditionType.NAME_TAKEN]
    assert claim.holds
    before = JobStatus(
        conditions=(
            Condition(type=ConditionType.NAME_TAKEN, status="True", reason="ForeignObject"),
        )
    )
    assert not claimed(before=before)[ConditionType.NAME_TAKEN].holds


def test_what_is_wrong_is_an_event_once():
    found = tuple(claimed(a_templated_spec(), verdict=BAD, taken=["a pod"]).values())
    assert [event.reason for event in warnings(JobStatus(), found)] == [
        "TemplateInvalid",
        "CheckpointNotDurable",
        "NameTaken",
    ]
    known = JobStatus(
        conditions=tuple(
            Condition(type=claim.type, status="False", reason=claim.reason, message=claim.message)
            for claim in found
        )
    )
    assert list(warnings(known, found)) == []
    assert list(warnings(JobStatus(), claimed(verdict=GOOD).values())) == []


def test_a_bad_template_keeps_pods_from_being_tried_and_nothing_else():
    delete = DeletePod(name="tiny-lm-1", uid="u", reason="surplus")
    made = Event(type=EventType.NORMAL, reason="PodsCreated", message="tiny-lm-0 created")
    other = Event(type=EventType.NORMAL, reason="Starting", message="wants 1 pod")
    plan = a_plan(CreatePod(name="tiny-lm-0", index=0), delete, events=(made, other))
    left = without_creations(plan)
    assert left.actions == (delete,)
    assert left.events == (other,)


def test_a_creation_is_news_unless_all_of_it_was_refused():
    made = Event(type=EventType.NORMAL, reason="PodsCreated", message="created")
    other = Event(type=EventType.NORMAL, reason="Starting", message="wants 2 pods")
    names = ("tiny-lm-0", "tiny-lm-1")
    creations = (CreatePod(name=name, index=number) for number, name in enumerate(names))
    plan = a_plan(*creations, events=(made, other))
    assert news(plan, refused=set()) == (made, other)
    assert news(plan, refused={names[0]}) == (made, other)
    assert news(plan, refused=set(names)) == (other,)


def test_a_taken_membership_is_not_written():
    delete = DeletePod(name="tiny-lm-1", uid="u", reason="surplus")
    plan = a_plan(PublishMembership(membership=a_membership(1, 0)), delete)
    assert without_membership(plan).actions == (delete,)


def test_a_refused_pod_is_tried_again_when_its_time_has_come_unless_it_is_given_back():
    refusals = Refusals()
    refusal = refusals.note("uid", "tiny-lm-3", words="quota", is_taken=False, now=at(0))
    later = refusal.again_at
    assert with_retries(a_plan(), [refusal], now=at(0)).actions == ()
    assert with_retries(a_plan(), [refusal], now=later).actions == (
        CreatePod(name="tiny-lm-3", index=3),
    )
    back = DeletePod(name="tiny-lm-3", uid=refusal.uid, reason="not admitted")
    assert with_retries(a_plan(back), [refusal], now=later).actions == (back,)


def test_refused_pods_and_reports_are_told():
    refusal = Refusals().note("uid", "tiny-lm-3", words="quota", is_taken=False, now=at(0))
    reports = [
        HeardReport(report=None, refusal="report of tiny-lm-0: huge"),
        HeardReport(report=None),
    ]
    assert [event.message for event in refusals_told([refusal], reports)] == [
        "tiny-lm-3 is not created: quota",
        "report of tiny-lm-0: huge",
    ]


@pytest.mark.parametrize(
    ("ttl", "condition", "want"),
    [
        pytest.param(None, ConditionType.COMPLETED, None, id="kept for ever"),
        pytest.param(60, ConditionType.READY, None, id="not over"),
        pytest.param(60, ConditionType.COMPLETED, timedelta(seconds=50), id="completed"),
        pytest.param(60, ConditionType.FAILED, timedelta(seconds=50), id="failed"),
        pytest.param(0, ConditionType.COMPLETED, timedelta(seconds=-10), id="at once"),
    ],
)
def test_a_job_that_is_over_expires(ttl, condition, want):
    status = JobStatus(
        conditions=(Condition(type=condition, status="True", reason="Because"),),
        completion_time=at(0),
    )
    assert time_to_expiry(a_spec(ttlSecondsAfterFinished=ttl), status, now=at(10)) == want
