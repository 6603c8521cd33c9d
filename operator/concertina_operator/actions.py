"""What a plan asks its shell to do, and the plan itself.

`plan(observed, now) -> Plan` (plan.py) returns these; a shell matches on the closed union
`Action` with `assert_never`. Every action is idempotent: a name that exists, a pod that is gone
and a membership that is already written are success. Pure: no I/O, no clock.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from concertina_api.v1alpha1 import JobStatus, Membership


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePod:
    """Create the pod `<job>-<index>`; no pod object of that name exists."""

    name: str
    index: int
    avoid: tuple[str, ...] = ()
    """Nodes that it must not be placed on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletePod:
    """Delete the pod if its uid is still this one."""

    name: str
    uid: str
    reason: str
    grace_seconds: int | None = None
    """Time to end by itself; None means the pod's own, 0 means kill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishMembership:
    """Write the membership; agents act on it as soon as they see it."""

    membership: Membership


Action = CreatePod | DeletePod | PublishMembership


class EventType(StrEnum):
    """Types of a Kubernetes event."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line for people: a decision or a refusal. Shells drop repetitions."""

    type: EventType
    reason: str
    """PascalCase and stable, for machines."""
    message: str
    detail: str = ""
    """More lines, such as a traceback, for where there is room; the last ones matter most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Store `status`, then do the actions in order, then plan again when something changes."""

    actions: tuple[Action, ...]
    status: JobStatus
    events: tuple[Event, ...]
    requeue_after: timedelta | None
    """When something changes by itself (a cooldown, a deadline); None means not before a change."""
    reason: str
    """One sentence with the numbers; logged when it changes."""
    starting: tuple[str, ...] = ()
    """Pods that are there, in no round yet, and still wanted, by name."""
    avoid: tuple[str, ...] = ()
    """Nodes that pods are kept off that are created now."""
