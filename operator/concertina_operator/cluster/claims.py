"""What only the shell on Kubernetes can say of a job, and what that changes in its plan.

Three conditions (TemplateValid, CheckpointDurable, NameTaken), who manages the job, and when it
expires. Called by the reconcile around each plan. Pure: no I/O, no clock.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from concertina_api.v1alpha1 import ConditionType, JobSpec, JobStatus
from concertina_operator.actions import (
    CreatePod,
    DeletePod,
    Event,
    EventType,
    Plan,
    PublishMembership,
)
from concertina_operator.cluster.durability import checkpoint_warning
from concertina_operator.cluster.facts import HeardReport
from concertina_operator.cluster.refusals import Refusal
from concertina_operator.cluster.template import template_faults
from concertina_operator.conditions import Claim, condition, holds

MANAGER: Final = "concertina.dev/operator"
"""Value of spec.managedBy that names this operator; an absent one does too."""
_BAD_NEWS: Final = {
    ConditionType.TEMPLATE_VALID: "TemplateInvalid",
    ConditionType.CHECKPOINT_DURABLE: "CheckpointNotDurable",
    ConditionType.NAME_TAKEN: "NameTaken",
}
"""Reasons of events."""
_CREATED: Final = "PodsCreated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is known of a job's template."""

    is_valid: bool
    reason: str
    message: str


def is_managed_here(document: Mapping[str, Any]) -> bool:
    """Whether the job, as it is stored, is this operator's to act for."""
    return document["spec"].get("managedBy") in (None, "", MANAGER)


def claims(
    spec: JobSpec, *, before: JobStatus, verdict: Verdict | None, taken: Iterable[str]
) -> Iterator[Claim]:
    """The conditions; `taken` says, one sentence each, which objects belong to others."""
    if verdict is not None:
        yield Claim(
            type=ConditionType.TEMPLATE_VALID,
            holds=verdict.is_valid,
            reason=verdict.reason,
            message=verdict.message,
        )
    if not template_faults(spec):
        yield _checkpoint_durable(spec)
    message = "; ".join(sorted(taken))
    if message or condition(before, ConditionType.NAME_TAKEN) is not None:
        reason = "ForeignObject" if message else "NamesFree"
        yield Claim(
            type=ConditionType.NAME_TAKEN, holds=bool(message), reason=reason, message=message
        )


def warnings(before: JobStatus, claimed: Iterable[Claim]) -> Iterator[Event]:
    """What is newly wrong, for people; a repetition is no news."""
    for claim in claimed:
        is_bad = claim.holds is (claim.type is ConditionType.NAME_TAKEN)
        known = condition(before, claim.type)
        is_news = known is None or known.message != claim.message
        if is_bad and is_news:
            yield _warning(_BAD_NEWS[claim.type], claim.message)


def refusals_told(refused: Iterable[Refusal], reports: Iterable[HeardReport]) -> Iterator[Event]:
    """Pods that the server would not create, and reports that could not be understood."""
    for refusal in refused:
        yield _warning("PodRefused", f"{refusal.name} is not created: {refusal.words}")
    for heard in reports:
        if heard.refusal:
            yield _warning("ReportRefused", heard.refusal)


def with_retries(plan: Plan, refused: Iterable[Refusal], *, now: datetime) -> Plan:
    """The plan with the creations that are to be tried again, unless it gives them back."""
    given_back = {action.uid for action in plan.actions if isinstance(action, DeletePod)}
    retries = tuple(
        CreatePod(name=refusal.name, index=int(refusal.name.rpartition("-")[2]))
        for refusal in refused
        if refusal.again_at <= now and refusal.uid not in given_back
    )
    return replace(plan, actions=(*plan.actions, *retries))


def news(plan: Plan, *, refused: Collection[str]) -> tuple[Event, ...]:
    """The plan's events once it is carried out: no creation is told of which all was refused."""
    names = {action.name for action in plan.actions if isinstance(action, CreatePod)}
    has_created = bool(names.difference(refused))
    return tuple(event for event in plan.events if has_created or event.reason != _CREATED)


def without_creations(plan: Plan) -> Plan:
    """The plan of a job whose template the server would refuse: no pod is tried."""
    return replace(
        plan,
        actions=tuple(action for action in plan.actions if not isinstance(action, CreatePod)),
        events=tuple(event for event in plan.events if event.reason != _CREATED),
    )


def without_membership(plan: Plan) -> Plan:
    """The plan of a job whose membership's name belongs to somebody else."""
    return replace(
        plan,
        actions=tuple(
            action for action in plan.actions if not isinstance(action, PublishMembership)
        ),
    )


def time_to_expiry(spec: JobSpec, status: JobStatus, *, now: datetime) -> timedelta | None:
    """Time until a job that is over is deleted; None when it is kept."""
    ttl, ended_at = spec.ttl_seconds_after_finished, status.completion_time
    is_over = holds(status, ConditionType.COMPLETED) or holds(status, ConditionType.FAILED)
    if ttl is None or ended_at is None or not is_over:
        return None
    return ended_at + timedelta(seconds=ttl) - now


def _warning(reason: str, message: str) -> Event:
    return Event(type=EventType.WARNING, reason=reason, message=message)


def _checkpoint_durable(spec: JobSpec) -> Claim:
    warning = checkpoint_warning(spec)
    return Claim(
        type=ConditionType.CHECKPOINT_DURABLE,
        holds=warning is None,
        reason="EndsWithPod" if warning else "OnVolume",
        message=warning or f"checkpoint.path {spec.checkpoint.path} outlives its pods",
    )
