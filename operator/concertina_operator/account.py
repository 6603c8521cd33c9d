"""What a job that is to train says about itself: its state, its conditions, its events.

Called by running.py. Pure: no I/O, no clock. It decides nothing.
"""

from datetime import datetime

from concertina_api.v1alpha1 import ConditionType, FailureCause, RetryStatus
from concertina_operator.actions import Event, EventType
from concertina_operator.arbitration import Verdict
from concertina_operator.conditions import Claim
from concertina_operator.departures import InForce
from concertina_operator.failures import FoundFailure, described
from concertina_operator.pods import PodChanges
from concertina_operator.rounds import NextRound
from concertina_operator.situation import Situation
from concertina_operator.sizing import smallest_size


def state_of(
    situation: Situation, force: InForce, verdict: Verdict | None, retry: RetryStatus
) -> str:
    """One word for where the job is."""
    if not force.members:
        if situation.template_fault:
            return "TemplateInvalid"
        if holds_back(retry, now=situation.now):
            return "BackingOff"
        return "Recovering" if situation.status.committed_round else "Starting"
    if verdict is not None:
        return "Recovering"
    if not force.committed:
        return "Resizing" if situation.status.committed_round else "Starting"
    return "Training"


def ready(force: InForce, verdict: Verdict | None, following: NextRound) -> Claim:
    """Whether a round trains."""
    kind = ConditionType.READY
    if verdict is not None:
        return Claim(type=kind, holds=False, reason="RoundBroken", message=verdict.reason)
    if not force.members:
        return Claim(type=kind, holds=False, reason="NoMembers", message=following.message)
    if not force.committed:
        return Claim(type=kind, holds=False, reason="RoundOpen", message=following.message)
    assert force.membership is not None
    message = f"round {force.membership.round} trains on {force.membership.world_size} workers"
    return Claim(type=kind, holds=True, reason="Training", message=message)


def pods_ready(
    situation: Situation, force: InForce, changes: PodChanges, retry: RetryStatus
) -> Claim:
    """Whether all wanted pods are members, and if not, what is missing and why."""
    kind, wanted = ConditionType.PODS_READY, situation.size.wanted
    number, floor = len(force.members), smallest_size(situation.spec.pods)
    message = f"{number} of {wanted} pods are members"
    if number >= wanted:
        reason = "AllMembers" if number == wanted else "Surplus"
        return Claim(type=kind, holds=number == wanted, reason=reason, message=message)
    names = {*changes.starting, *(creation.name for creation in changes.create)}
    if names:
        message += f", {', '.join(sorted(names))} start"
    if changes.given_back:
        seconds = situation.ready_deadline.total_seconds()
        message += (
            f", {', '.join(changes.given_back)} not admitted within {seconds:g} s: given back"
        )
    if retry.not_before is not None and situation.now < retry.not_before:
        message += f", no pod is created before {retry.not_before:%Y-%m-%dT%H:%M:%SZ}"
        message += f" because {retry.message}" if retry.message else ""
    if changes.avoid:
        message += f"; new pods avoid {', '.join(changes.avoid)}"
    if situation.template_fault:
        message += f"; no pod can be created: {situation.template_fault}"
    told = {entry.pod.message for entry in situation.standings if entry.pod.message}
    message += "".join(f"; {text}" for text in sorted(told))
    if 0 < number < floor:
        message = f"forced to run below the smallest size {floor}: {message}"
        return Claim(type=kind, holds=False, reason="BelowMinimum", message=message)
    missing = "TemplateInvalid" if situation.template_fault else "PodsMissing"
    return Claim(
        type=kind, holds=False, reason="PodsStarting" if names else missing, message=message
    )


def events_of(situation: Situation, changes: PodChanges) -> tuple[Event, ...]:
    """What went wrong with pods, and what is about to."""
    notices = (
        Event(type=EventType.WARNING, reason="NoticeGiven", message=f"{text}; it leaves now")
        for text in situation.there.notices
    )
    failures = (_failure(entry) for entry in situation.news.found)
    seconds = situation.ready_deadline.total_seconds()
    returns = (
        Event(
            type=EventType.WARNING,
            reason="PodGivenBack",
            message=f"{name} was not admitted within {seconds:g} s and is given back",
        )
        for name in changes.given_back
    )
    return (*notices, *failures, *returns)


def _failure(found: FoundFailure) -> Event:
    """A failure, under a reason that says whether the code, the memory or nobody is to blame."""
    reason = "WorkerFailed"
    if found.is_nobodys_fault:
        reason = "InfrastructureFailed"
    elif found.failure.cause is FailureCause.OUT_OF_MEMORY:
        reason = "OutOfMemory"
    return Event(
        type=EventType.WARNING,
        reason=reason,
        message=described(found),
        detail=found.failure.traceback,
    )


def holds_back(retry: RetryStatus, *, now: datetime) -> bool:
    """Whether no pod may be created yet."""
    return retry.not_before is not None and now < retry.not_before
