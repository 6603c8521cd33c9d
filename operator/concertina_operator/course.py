"""What to do in one situation, and the courses of a job that does not train.

plan.py picks a course and writes it down; a job that trains takes the one in running.py. Pure: no
I/O, no clock. A course is computed from the situation alone, never from what an earlier one meant
to do, so it can be repeated after a crash at any moment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from concertina_api.v1alpha1 import CleanupPolicy, ConditionType, Intent, RetryStatus
from concertina_operator.actions import DeletePod, Event, EventType
from concertina_operator.backoff import after_giving_back
from concertina_operator.conditions import Claim, holds
from concertina_operator.departures import InForce
from concertina_operator.nodes import allowance_events
from concertina_operator.pods import PodChanges, cleanup, pod_changes
from concertina_operator.rounds import NextRound, RoundReason, concluded, dismissed
from concertina_operator.situation import Situation
from concertina_operator.sizing import smallest_size

NO_CHANGES = PodChanges()
IDLE: Mapping[str, Any] = {
    "retry": RetryStatus(),
    "waiting_since": None,
    "below_min_since": None,
    "probe_at": None,
}
"""Intentions of a job that wants no pods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What to do now."""

    state: str
    """One word for people; nothing reads it back."""
    message: str
    next: NextRound
    pods: PodChanges = NO_CHANGES
    wanted: int
    intends: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the status that this course sets."""
    claims: tuple[Claim, ...] = ()
    events: tuple[Event, ...] = ()
    waits: tuple[timedelta, ...] = ()
    """Times until something changes by itself, beside those of the pods."""


def in_force(situation: Situation, following: NextRound) -> InForce:
    """The membership that this course puts in force, or leaves there."""
    present, membership = situation.membership, following.membership
    if membership is None or (present is not None and membership.round == present.round):
        return InForce(
            membership=membership,
            committed=situation.there.committed,
            since=situation.before.round_at,
        )
    return InForce(
        membership=membership,
        committed=not membership.members and not membership.leaving,
        since=situation.now,
    )


def untouched(situation: Situation) -> Course:
    """A pod speaks another protocol: say so, and leave everything as it is."""
    names = ", ".join(entry.pod.name for entry in situation.standings if not entry.is_compatible)
    message = f"{names} speaks no protocol that this operator knows; pods are left as they are"
    return Course(
        state="Incompatible",
        message=message,
        next=NextRound(membership=situation.membership, reason=RoundReason.STEADY, message=message),
        wanted=situation.before.pods.wanted,
        # A failure that nobody acts on now is news for the plan that may.
        intends={"failures": situation.before.failures},
        claims=(
            Claim(
                type=ConditionType.COMPATIBLE,
                holds=False,
                reason="UnknownProtocol",
                message=message,
            ),
        ),
    )


def over(situation: Situation) -> Course:
    """The job has ended before: what is left of it goes, as the clean-up policy says."""
    has_failed = holds(situation.before, ConditionType.FAILED)
    state = "Failed" if has_failed else "Completed"
    return _ended(situation, state=state, message=f"the job is over: {state}")


def failed(situation: Situation, *, reason: str, message: str) -> Course:
    """The job fails now: survivors save and exit."""
    return replace(
        _ended(situation, state="Failed", message=message),
        claims=(Claim(type=ConditionType.FAILED, holds=True, reason=reason, message=message),),
        events=(Event(type=EventType.WARNING, reason=reason, message=message),),
    )


def completed(situation: Situation) -> Course:
    """All samples are consumed and every member has ended well."""
    progress = situation.status.progress
    message = f"{progress.samples} samples in {progress.step} steps"
    return replace(
        _ended(situation, state="Completed", message=message),
        claims=(
            Claim(type=ConditionType.COMPLETED, holds=True, reason="Finished", message=message),
        ),
        events=(Event(type=EventType.NORMAL, reason="Completed", message=message),),
    )


def finishing(situation: Situation) -> Course:
    """All is trained and saved: all exit; who does not in time is deleted."""
    assert situation.membership is not None
    following = concluded(situation.membership, number=situation.number)
    limit = timedelta(seconds=situation.spec.scaling.leave_deadline_seconds)
    left = (in_force(situation, following).since or situation.now) + limit - situation.now
    slow = tuple(
        DeletePod(name=entry.pod.name, uid=entry.pod.uid, reason="still runs after the end")
        for entry in situation.standings
        if entry.is_alive and not entry.pod.deleting
    )
    return Course(
        state="Finishing",
        message="all samples are consumed and the last state is saved, members exit",
        next=following,
        pods=PodChanges(delete=slow if left <= timedelta(0) else ()),
        wanted=min(situation.before.pods.wanted, situation.ceiling),
        waits=(left,),
    )


def suspended(situation: Situation) -> Course:
    """The job is to hold no pods: members save a checkpoint and exit."""
    following = _dismissed(situation, intent=Intent.SUSPEND)
    is_empty = all(entry.pod.ended for entry in situation.standings)
    state = "Suspended" if is_empty else "Suspending"
    message = "no pod is held" if is_empty else following.message
    return Course(
        state=state,
        message=message,
        next=following,
        pods=cleanup(
            situation.standings,
            in_force=in_force(situation, following),
            lost=[lost.member.uid for lost in situation.there.lost],
            which=CleanupPolicy.ALL,
            policy=situation.spec.scaling,
            ended_at=None,
            now=situation.now,
        ),
        wanted=0,
        intends=IDLE,
        claims=(Claim(type=ConditionType.SUSPENDED, holds=True, reason=state, message=message),),
    )


def ungranted(situation: Situation) -> Course:
    """Fewer pods are granted than the smallest size: hold none, and wait."""
    message = situation.size.message
    return _released(
        situation, state="WaitingForGrant", reason="NotGranted", message=message, wanted=0
    )


def nameless(situation: Situation) -> Course:
    """No round can be published under the job's name: hold no pods until it is free."""
    return _released(
        situation,
        state="NameTaken",
        reason="NameTaken",
        message=f"TrainingMembership {situation.name} belongs to somebody else: no pod is held",
        wanted=0,
    )


def given_back(situation: Situation) -> Course:
    """Too few pods became warm in time: release all, so that another job can have them."""
    attempt = situation.before.retry.count + 1
    pause = after_giving_back(
        attempt, ready_deadline=situation.ready_deadline, job_uid=situation.uid
    )
    floor = smallest_size(situation.spec.pods)
    message = (
        f"fewer than {floor} pods were warm for {situation.ready_deadline.total_seconds():g} s:"
        f" all are released and asked for again in {pause.total_seconds():.0f} s"
    )
    course = _released(
        situation,
        state="BackingOff",
        reason="BelowMinimum",
        message=message,
        wanted=situation.size.wanted,
    )
    retry = RetryStatus(count=attempt, not_before=situation.now + pause)
    return replace(
        course,
        # Nodes that were avoided may be the only ones with room.
        intends={**IDLE, "retry": retry, "offences": ()},
        events=(
            Event(type=EventType.WARNING, reason="PodsReleased", message=message),
            *allowance_events(situation),
        ),
        waits=(pause,),
    )


def _dismissed(situation: Situation, *, intent: Intent) -> NextRound:
    return dismissed(situation.membership, situation.there, intent=intent, number=situation.number)


def _ended(situation: Situation, *, state: str, message: str) -> Course:
    following = _dismissed(situation, intent=Intent.STOP)
    ended_at = situation.before.completion_time or situation.now
    return Course(
        state=state,
        message=message,
        next=following,
        pods=cleanup(
            situation.standings,
            in_force=in_force(situation, following),
            lost=[lost.member.uid for lost in situation.there.lost],
            which=situation.spec.cleanup_policy,
            policy=situation.spec.scaling,
            ended_at=ended_at,
            now=situation.now,
        ),
        wanted=0,
        intends={**IDLE, "completion_time": ended_at},
    )


def _released(
    situation: Situation, *, state: str, reason: str, message: str, wanted: int
) -> Course:
    following = _dismissed(situation, intent=Intent.RUN)
    return Course(
        state=state,
        message=message,
        next=following,
        pods=pod_changes(
            situation.name,
            situation.standings,
            in_force=in_force(situation, following),
            policy=situation.spec.scaling,
            wanted=0,
            ceiling=situation.ceiling,
            waiting_since=None,
            not_before=None,
            now=situation.now,
        ),
        wanted=wanted,
        intends=IDLE,
        claims=(Claim(type=ConditionType.PODS_READY, holds=False, reason=reason, message=message),),
    )
