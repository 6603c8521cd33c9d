from dataclasses import replace
from datetime import timedelta

import pytest

from concertina_api.v1alpha1 import Condition, ConditionType, JobStatus, PodCounts
from concertina_operator.actions import CreatePod, Plan
from concertina_operator.cluster.claims import (
    Verdict,
    claims,
    hindered,
    is_managed_here,
    is_to_be_tried,
    refusals_told,
    time_to_expiry,
    warnings,
    with_retries,
)
from concertina_operator.cluster.facts import HeardReport
from concertina_operator.cluster.refusals import Refusals
from tests.concertina_operator.cluster.templates import a_container, a_templated_spec
from tests.concertina_operator.factories import a_spec, at

BAD = Verdict(is_valid=False, reason="Refused", message="unknown field imagee")
GOOD = Verdict(is_valid=True, reason="Accepted", message="fine")
DURABLE = a_templated_spec(
    a_container(volumeMounts=[{"name": "disk", "mountPath": "/checkpoints"}]),
    volumes=[{"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}],
).model_copy(update={"checkpoint": a_spec(checkpoint={"path": "/checkpoints"}).checkpoint})
IN_BUCKET = a_templated_spec().model_copy(
    update={"checkpoint": a_spec(checkpoint={"path": "s3://bucket/folder"}).checkpoint}
)


def a_plan(*, wanted=1, **fields):
    nothing = Plan(actions=(), status=JobStatus(), events=(), requeue_after=None, reason="because")
    status = JobStatus(pods=PodCounts(wanted=wanted))
    return replace(nothing, status=status, **fields)


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


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        pytest.param(DURABLE, (True, "OnVolume"), id="a volume"),
        pytest.param(IN_BUCKET, (True, "InObjectStorage"), id="a bucket"),
        pytest.param(a_templated_spec(), (False, "EndsWithPod"), id="nothing"),
    ],
)
def test_checkpoints_are_durable_on_what_outlives_the_pod(spec, want):
    claim = claimed(spec)[ConditionType.CHECKPOINT_DURABLE]
    assert (claim.holds, claim.reason) == want


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


def test_what_a_condition_suffers_from_is_said_before_what_it_says():
    before = (Condition(type=ConditionType.READY, status="False", reason="Because", message="no"),)
    (claim,) = hindered(
        JobStatus(conditions=before),
        {ConditionType.READY: "not written", ConditionType.PODS_READY: "unsaid"},
    )
    assert (claim.holds, claim.reason, claim.message) == (False, "Because", "not written; no")


def a_refusal(refusals, index, *, words="quota", now=0):
    name = f"tiny-lm-{index}"
    return refusals.note("uid", name, words=words, is_taken=False, now=at(now))


def test_refused_pods_are_tried_again_together_once_it_is_time_for_one():
    refusals = Refusals()
    first = a_refusal(refusals, 10)
    a_refusal(refusals, 2, now=60)
    refused, wanted = refusals.of("uid"), ("tiny-lm-2", "tiny-lm-10")
    assert with_retries(a_plan(starting=wanted), refused, now=at(0)).actions == ()
    assert with_retries(a_plan(starting=wanted), refused, now=first.again_at).actions == (
        CreatePod(name="tiny-lm-2", index=2),
        CreatePod(name="tiny-lm-10", index=10),
    )


def test_a_pod_that_is_tried_again_is_kept_off_the_nodes_that_are_avoided_now():
    refusals = Refusals()
    refusal = a_refusal(refusals, 0)
    planned = a_plan(starting=("tiny-lm-0",), avoid=("n1", "n2"))
    (action,) = with_retries(planned, [refusal], now=refusal.again_at).actions
    assert action == CreatePod(name="tiny-lm-0", index=0, avoid=("n1", "n2"))


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param({}, id="not wanted"),
        pytest.param({"starting": ("tiny-lm-0",)}, id="another is wanted"),
    ],
)
def test_a_refused_pod_that_the_plan_does_not_want_is_not_tried_again(plan):
    refusals = Refusals()
    refusal = a_refusal(refusals, 3)
    assert with_retries(a_plan(**plan), [refusal], now=refusal.again_at).actions == ()


def test_refused_pods_are_told_once_for_what_they_have_in_common_and_reports_each():
    refusals = Refusals()
    for index in (2, 10):
        a_refusal(refusals, index)
    for index in range(20, 26):
        a_refusal(refusals, index, words="webhook")
    reports = [
        HeardReport(report=None, refusal="report of tiny-lm-0: huge"),
        HeardReport(report=None),
    ]
    assert [event.message for event in refusals_told(refusals.of("uid"), reports)] == [
        "tiny-lm-2, tiny-lm-10 not created: quota",
        "tiny-lm-20 to tiny-lm-25, 6 pods, not created: webhook",
        "report of tiny-lm-0: huge",
    ]


CREATES = {"actions": (CreatePod(name="tiny-lm-0", index=0),)}


@pytest.mark.parametrize(
    ("known", "plan", "want"),
    [
        pytest.param(None, {"wanted": 1}, True, id="nothing is known"),
        pytest.param(("True", 3), {"wanted": 1}, False, id="accepted"),
        pytest.param(("True", 2), {"wanted": 1}, True, id="accepted before it was edited"),
        pytest.param(("False", 3), {"wanted": 1}, True, id="not accepted"),
        pytest.param(("False", 3), {"wanted": 0}, False, id="no pod is wanted"),
        pytest.param(("True", 3), {"wanted": 1} | CREATES, True, id="pods are created"),
    ],
)
def test_a_template_is_tried_when_it_matters(known, plan, want):
    before = JobStatus()
    if known is not None:
        status, generation = known
        valid = Condition(
            type=ConditionType.TEMPLATE_VALID,
            status=status,
            reason="Because",
            observed_generation=generation,
        )
        before = JobStatus(conditions=(valid,))
    assert is_to_be_tried(a_plan(**plan), before, generation=3) is want


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
