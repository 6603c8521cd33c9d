"""What only the shell on Kubernetes can say of a job, and what that changes in its plan.

Three conditions (TemplateValid, CheckpointDurable, NameTaken), who manages the job, and when it
expires. Called by the reconcile around each plan. Pure: no I/O, no clock.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from concertina_api.location import scheme
from concertina_api.v1alpha1 import ConditionType, JobSpec, JobStatus
from concertina_operator.actions import CreatePod, Event, EventType, Plan
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
_NAMED_PODS: Final = 4
"""More names make no sentence."""


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


def hindered(status: JobStatus, words: Mapping[ConditionType, str]) -> Iterator[Claim]:
    """The plan's conditions once more, with what the server said of an object that they need."""
    for kind, said in words.items():
        known = condition(status, kind)
        if known is not None:
            yield Claim(
                type=kind,
                holds=known.status == "True",
                reason=known.reason,
                message=f"{said}; {known.message}",
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
    names: defaultdict[str, list[str]] = defaultdict(list)
    for refusal in sorted(refused, key=_index):
        names[refusal.words].append(refusal.name)
    for words, pods in names.items():
        yield _warning("PodRefused", f"{_counted(pods)} not created: {words}")
    for heard in reports:
        if heard.refusal:
            yield _warning("ReportRefused", heard.refusal)


def with_retries(plan: Plan, refused: Iterable[Refusal], *, now: datetime) -> Plan:
    """The plan with the creations that are to be tried again, of pods that it still wants.

    All of them once it is time for one: the server's answer to the first decides for the others.
    """
    wanted = sorted((entry for entry in refused if entry.name in plan.starting), key=_index)
    if all(entry.again_at > now for entry in wanted):
        return plan
    retries = (
        CreatePod(name=entry.name, index=_index(entry), avoid=plan.avoid) for entry in wanted
    )
    return replace(plan, actions=(*plan.actions, *retries))


def is_to_be_tried(plan: Plan, before: JobStatus, *, generation: int) -> bool:
    """Whether it matters now what the server thinks of the template."""
    if any(isinstance(action, CreatePod) for action in plan.actions):
        return True
    known = condition(before, ConditionType.TEMPLATE_VALID)
    is_accepted = known is not None and known.status == "True"
    is_new = known is None or known.observed_generation != generation
    return plan.status.pods.wanted > 0 and (is_new or not is_accepted)


def time_to_expiry(spec: JobSpec, status: JobStatus, *, now: datetime) -> timedelta | None:
    """Time until a job that is over is deleted; None when it is kept."""
    ttl, ended_at = spec.ttl_seconds_after_finished, status.completion_time
    is_over = holds(status, ConditionType.COMPLETED) or holds(status, ConditionType.FAILED)
    if ttl is None or ended_at is None or not is_over:
        return None
    return ended_at + timedelta(seconds=ttl) - now


def _index(refusal: Refusal) -> int:
    return int(refusal.name.rpartition("-")[2])


def _counted(names: Sequence[str]) -> str:
    if len(names) <= _NAMED_PODS:
        return ", ".join(names)
    return f"{names[0]} to {names[-1]}, {len(names)} pods,"


def _warning(reason: str, message: str) -> Event:
    return Event(type=EventType.WARNING, reason=reason, message=message)


def _checkpoint_durable(spec: JobSpec) -> Claim:
    warning = checkpoint_warning(spec)
    place = "OnVolume" if scheme(spec.checkpoint.path) is None else "InObjectStorage"
    return Claim(
        type=ConditionType.CHECKPOINT_DURABLE,
        holds=warning is None,
        reason="EndsWithPod" if warning else place,
        message=warning or f"checkpoint.path {spec.checkpoint.path} outlives its pods",
    )
