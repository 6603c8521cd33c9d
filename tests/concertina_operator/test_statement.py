"""What one plan says of losses and of what protects from them."""

from dataclasses import replace

from concertina_api.v1alpha1 import ConditionType, PodPhase
from concertina_operator.conditions import condition
from concertina_operator.observed import Observed
from concertina_operator.plan import plan
from tests.concertina_operator.factories import (
    a_job,
    a_member,
    a_membership,
    a_pod,
    a_report,
    a_spec,
    at,
)

ACKNOWLEDGED = {
    "round": 7,
    "world_size_before": 3,
    "world_size": 2,
    "step": 812,
    "pause_seconds": 2.4,
    "source": "snapshot",
    "lost": 1,
    "steps_lost": 3,
}
PROGRESS = {"step": 812, "samples": 8120, "round": 7, "useful_seconds": 50.0}


def observed(**leader):
    """Two pods train in round 7, which began without a third; `leader` reports these fields."""
    spec = a_spec(batch={"initial": 64}, pods={"min": 1, "max": 2})
    job = a_job(
        spec,
        round=7,
        committed_round=6,
        progress={"step": 815},
        pods={"wanted": 2},
        gpu_seconds=100.0,
    )
    training = {"phase": PodPhase.TRAINING, "round": 7}
    return Observed(
        job=job,
        membership=a_membership(7, 0, 1, lost=(a_member(2),)),
        pods=(a_pod(0), a_pod(1)),
        reports={
            "tiny-lm-0": a_report(0, **training, progress=PROGRESS, **leader),
            "tiny-lm-1": a_report(1, **training),
        },
    )


def again(seen, planned):
    """The same, after the plan was carried out."""
    return replace(seen, job=seen.job.model_copy(update={"status": planned.status}))


def test_a_recovery_is_counted_and_told_once():
    seen = observed(acknowledged=ACKNOWLEDGED)
    first = plan(seen, at(0))
    assert [event.message for event in first.events if event.reason == "Recovered"] == [
        "round 7: 2 worker(s) go on without tiny-lm-2, state of step 812 from a snapshot,"
        " 3 steps lost, 2.4 s"
    ]
    second = plan(again(seen, first), at(1))
    assert [event for event in second.events if event.reason == "Recovered"] == []
    assert second.status.recoveries == first.status.recoveries
    assert (first.status.recoveries.count, first.status.recoveries.steps_lost) == (1, 3)
    assert first.status.useful_gpu_seconds == 50.0


def test_snapshots_are_told_in_status_and_condition():
    facts = {"step": 810, "every_steps": 10, "seconds": 0.5, "cost": 0.005}
    status = plan(observed(snapshot=facts), at(0)).status
    assert (status.snapshot.step, status.snapshot.every_steps) == (810, 10)
    found = condition(status, ConditionType.SNAPSHOTS_TAKEN)
    assert (found.status, found.reason) == ("True", "Complete")


def test_a_straggler_is_told_once_as_long_as_the_others_wait_for_it():
    seen = observed(slow=("tiny-lm-1",))
    first = plan(seen, at(0))
    told = [event.message for event in first.events if event.reason == "PodSlow"]
    assert told == ["the others wait for tiny-lm-1"]
    assert condition(first.status, ConditionType.SLOW).status == "True"
    second = plan(again(seen, first), at(1))
    assert [event for event in second.events if event.reason == "PodSlow"] == []


def test_the_event_of_a_failure_holds_the_traceback_of_the_report():
    seen = observed()
    failure = {
        "round": 7,
        "incarnation": "i1",
        "cause": "Exception",
        "message": "KeyError: 41",
        "traceback": "  File a, line 3\nKeyError: 41",
    }
    reports = seen.reports | {"tiny-lm-1": a_report(1, phase=PodPhase.FAILED, failure=failure)}
    planned = plan(replace(seen, reports=reports), at(0))
    told = [event.detail for event in planned.events if event.reason == "WorkerFailed"]
    assert told == [failure["traceback"]]
