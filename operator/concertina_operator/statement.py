"""Writes a course down: the status that is stored and the events that people read.

Called by plan.py. Pure: no I/O, no clock. Conditions are complete with every plan, so that nobody
has to know what was written before.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from concertina_api.v1alpha1 import ConditionType, JobStatus, Membership, PodCounts
from concertina_operator import ledger, recovery
from concertina_operator.actions import DeletePod, Event, EventType
from concertina_operator.conditions import Claim, condition, conditions, holds
from concertina_operator.course import Course, in_force
from concertina_operator.grace import grace_shortfall
from concertina_operator.observed import Phase
from concertina_operator.rounds import RoundReason
from concertina_operator.situation import Situation
from concertina_operator.sizing import SizingReason

_NOT_YET: Final = {ConditionType.COMPLETED: "NotCompleted", ConditionType.FAILED: "NotFailed"}
"""Reasons of conditions that end a job, as long as they do not hold."""
POD_EVENTS: Final = frozenset({"PodsCreated", "PodDeleted"})
"""Reasons of what is told of pods."""
ROUND_EVENTS: Final = frozenset({"RoundPublished", "RoundProbed", "MemberLost"})
"""Reasons of what is told of a membership that is written."""


def status_after(situation: Situation, course: Course, published: Membership | None) -> JobStatus:
    """The status to store before the actions are done; `published` is the membership to write."""
    before, now = situation.before, situation.now
    membership = published or situation.membership
    return situation.status.model_copy(
        update={
            "conditions": conditions(
                before.conditions,
                (*_claims(situation, course), *course.claims),
                generation=situation.generation,
                now=now,
            ),
            "state": course.state,
            "pods": _pod_counts(situation, wanted=course.wanted),
            "world_size": _world_size(situation, course),
            "round": max(before.round, membership.round if membership else 0),
            "scaled_at": _scaled_at(situation, wanted=course.wanted),
            **_activity(situation),
            **course.intends,
            **_round_times(situation, published),
        }
    )


def events_of(
    situation: Situation, course: Course, published: Membership | None
) -> tuple[Event, ...]:
    """Every decision and every refusal of this plan."""
    return (
        *(_warning("ReportRefused", refusal) for refusal in situation.refusals),
        *_request_events(situation, course),
        *course.events,
        *_round_events(situation, course, published),
        *pod_events(
            created=[creation.name for creation in course.pods.create],
            deleted=course.pods.delete,
            wanted=course.wanted,
        ),
    )


def pod_events(
    *, created: Sequence[str], deleted: Iterable[DeletePod], wanted: int
) -> Iterator[Event]:
    """What is told of pods that were created, by name, and deleted."""
    if created:
        yield _normal("PodsCreated", f"{', '.join(created)} created, {wanted} wanted")
    for deletion in deleted:
        yield _normal("PodDeleted", f"{deletion.name} deleted: {deletion.reason}")


def _pod_counts(situation: Situation, *, wanted: int) -> PodCounts:
    standings = situation.standings
    return PodCounts(
        wanted=wanted,
        ready=sum(standing.is_warm for standing in standings),
        running=sum(
            standing.pod.phase is Phase.RUNNING and not standing.pod.ended for standing in standings
        ),
        outdated=sum(standing.pod.outdated and not standing.pod.ended for standing in standings),
        granted=situation.granted,
    )


def _world_size(situation: Situation, course: Course) -> int:
    """Workers of the newest round that is acknowledged."""
    force = in_force(situation, course.next)
    if force.membership is None or not force.membership.members:
        return 0
    return force.membership.world_size if force.committed else situation.before.world_size


def _scaled_at(situation: Situation, *, wanted: int) -> Any:
    """When the wanted number last changed; a start is no change."""
    before = situation.before
    if wanted == 0:
        return None
    return situation.now if before.pods.wanted not in (0, wanted) else before.scaled_at


def _activity(situation: Situation) -> dict[str, Any]:
    before = situation.before
    if not situation.spec.suspend:
        return {"active_since": before.active_since or situation.now}
    seconds = ledger.active_time(before, now=situation.now).total_seconds()
    return {"active_since": None, "active_seconds": seconds}


def _round_times(situation: Situation, published: Membership | None) -> dict[str, Any]:
    """A new round is due from now on, and no probe is open in it."""
    present = situation.membership
    if published is not None and (present is None or present.round < published.round):
        return {"round_at": situation.now, "probe_at": None}
    if present is not None and situation.before.round_at is None:
        return {"round_at": situation.now}
    return {}


def _claims(situation: Situation, course: Course) -> Iterator[Claim]:
    """What the conditions say unless the course claims otherwise."""
    for kind in (ConditionType.READY, ConditionType.PODS_READY):
        yield Claim(type=kind, holds=False, reason=course.state, message=course.message)
    yield Claim(type=ConditionType.SUSPENDED, holds=False, reason="NotSuspended")
    yield _resizing(situation, course)
    yield from _protection(situation)
    yield _request_satisfied(situation, course)
    if any(standing.report is not None for standing in situation.standings):
        yield Claim(type=ConditionType.COMPATIBLE, holds=True, reason="SameProtocol")
    for kind, reason in _NOT_YET.items():
        if not holds(situation.before, kind):
            yield Claim(type=kind, holds=False, reason=reason)


def _protection(situation: Situation) -> Iterator[Claim]:
    """What protects from losses, and who holds the others up."""
    membership = situation.membership
    report = recovery.leading_report(membership, situation.standings)
    taken = recovery.snapshots_taken(situation.spec, membership=membership, report=report)
    if taken is not None:
        yield taken
    yield recovery.slow(membership, report)


def _request_satisfied(situation: Situation, course: Course) -> Claim:
    """Whether the job runs on the pods that its batch asks for."""
    size, kind = situation.size, ConditionType.REQUEST_SATISFIED
    force = in_force(situation, course.next)
    number = len(force.members) if force.committed else 0
    if size.reason is SizingReason.SATISFIED and number < size.wanted:
        message = f"{size.message}, {number} of them train"
        return Claim(type=kind, holds=False, reason="WaitingForPods", message=message)
    holds_now = size.reason is SizingReason.SATISFIED
    return Claim(type=kind, holds=holds_now, reason=size.reason.value, message=size.message)


def _resizing(situation: Situation, course: Course) -> Claim:
    """While a round is open the condition keeps saying why it was published."""
    force, reason = in_force(situation, course.next), course.next.reason
    kind = ConditionType.RESIZING
    if force.committed:
        return Claim(
            type=kind, holds=False, reason=RoundReason.STEADY.value, message=course.message
        )
    known = condition(situation.before, kind)
    if (
        reason in (RoundReason.ROUND_OPEN, RoundReason.PROBING)
        and known is not None
        and known.status == "True"
    ):
        return Claim(type=kind, holds=True, reason=known.reason, message=known.message)
    return Claim(type=kind, holds=True, reason=reason.value, message=course.next.message)


def _request_events(situation: Situation, course: Course) -> Iterator[Event]:
    before, batch = situation.before, situation.status.batch
    if batch.sequence > before.batch.sequence:
        yield _normal("RequestAccepted", f"request {batch.sequence}: {batch.reason}")
    if course.wanted != before.pods.wanted and course.wanted:
        reason = "Starting" if before.pods.wanted == 0 else situation.size.reason.value
        yield _normal(reason, situation.size.message)


def _round_events(
    situation: Situation, course: Course, published: Membership | None
) -> Iterator[Event]:
    before, status = situation.before, situation.status
    if status.resizes > before.resizes and status.last_resize is not None:
        resize = status.last_resize
        yield _normal(
            "Resized",
            f"{resize.from_world_size} to {resize.to_world_size} workers in"
            f" {resize.pause_seconds:g} s: {resize.reason}",
        )
        if shortfall := grace_shortfall(situation.spec, status=status):
            yield _warning("GraceTooShort", shortfall)
    yield from _recovery_events(situation)
    if published is None:
        return
    message = course.next.message
    if course.next.reason in (RoundReason.LOSS, RoundReason.PROBING):
        name = "MemberLost" if course.next.reason is RoundReason.LOSS else "RoundProbed"
        yield _warning(name, message)
    else:
        yield _normal("RoundPublished", message)


def _recovery_events(situation: Situation) -> Iterator[Event]:
    before, membership = situation.before, situation.membership
    reports = ledger.reports_of(situation.standings)
    resize = recovery.recovered(before, reports=reports, membership=membership)
    if resize is not None:
        told = recovery.recovery_in_words(
            situation.status, before=before, resize=resize, membership=membership
        )
        yield _normal("Recovered", told)
    report = recovery.leading_report(membership, situation.standings)
    slow = recovery.slow(membership, report)
    if slow.holds and not holds(before, ConditionType.SLOW):
        yield _warning(slow.reason, slow.message)


def _normal(reason: str, message: str) -> Event:
    return Event(type=EventType.NORMAL, reason=reason, message=message)


def _warning(reason: str, message: str) -> Event:
    return Event(type=EventType.WARNING, reason=reason, message=message)
