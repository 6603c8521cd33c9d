"""What was really done of a plan, and what people are told of that.

Filled by apply.py; the reconcile tells the events. A plan says beforehand what it means to do; the
server may take only a part of it. Pure: no I/O, no clock.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from concertina_operator.actions import DeletePod, Event, EventType, Plan
from concertina_operator.cluster.errors import ApiError
from concertina_operator.statement import POD_EVENTS, ROUND_EVENTS, pod_events


@dataclass(slots=True, kw_only=True)
class Deeds:
    """The effects of one plan's actions."""

    has_published: bool = False
    created: list[str] = field(default_factory=list)
    """Names of pods."""
    deleted: list[DeletePod] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """What the server would not take beside pods: its words by kind of object."""
    error: ApiError | None = None
    """Why the rest was not done."""


def news(plan: Plan, deeds: Deeds) -> Iterator[Event]:
    """The plan's events, with what was done in place of what was meant to be."""
    undone = POD_EVENTS if deeds.has_published else POD_EVENTS | ROUND_EVENTS
    yield from (event for event in plan.events if event.reason not in undone)
    yield from pod_events(
        created=sorted(deeds.created), deleted=deeds.deleted, wanted=plan.status.pods.wanted
    )
    for kind, words in deeds.refused.items():
        yield Event(type=EventType.WARNING, reason=f"{kind}Refused", message=words)
