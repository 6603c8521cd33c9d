"""Writes conditions as Kubernetes wants them: stable reasons, times of transitions.

Called by plan.py. Pure: no I/O, no clock. Conditions of types that are not claimed are kept: the
shell owns TemplateValid and CheckpointDurable.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from concertina_api.v1alpha1 import Condition, ConditionType, JobStatus

LONGEST_MESSAGE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a condition is to say."""

    type: ConditionType
    holds: bool
    reason: str
    """PascalCase and stable."""
    message: str = ""


def conditions(
    before: Iterable[Condition], claims: Iterable[Claim], *, generation: int, now: datetime
) -> tuple[Condition, ...]:
    """The conditions after these claims, in the order of their types.

    Of several claims of a type the last counts; only from what was before it is a transition.
    """
    known = {condition.type: condition for condition in before}
    for claim in {claim.type: claim for claim in claims}.values():
        previous = known.get(claim.type)
        status = "True" if claim.holds else "False"
        is_kept = previous is not None and previous.status == status
        known[claim.type] = Condition(
            type=claim.type,
            status=status,
            reason=claim.reason,
            message=claim.message[:LONGEST_MESSAGE],
            observed_generation=generation,
            last_transition_time=previous.last_transition_time if previous and is_kept else now,
        )
    return tuple(known[name] for name in ConditionType if name in known)


def condition(status: JobStatus, name: ConditionType) -> Condition | None:
    """The condition of a type, if there is one."""
    return next((entry for entry in status.conditions if entry.type is name), None)


def holds(status: JobStatus, name: ConditionType) -> bool:
    """Whether a condition is True."""
    found = condition(status, name)
    return found is not None and found.status == "True"
