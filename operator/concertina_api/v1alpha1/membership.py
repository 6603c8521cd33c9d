"""The membership: who trains now, in rank order. The operator writes it, agents read it.

One document per job. `round` never falls. Identity is (pod uid, incarnation): an agent draws a
new incarnation whenever it starts its workers, so a restarted process is never taken for the one
that held the state. The order of members is the order of ranks, old members first, so that
shards move least.
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from concertina_api.v1alpha1.base import (
    API_VERSION,
    PROTOCOL,
    Count,
    Host,
    Model,
    Name,
    Port,
    Seconds,
    Token,
)

MAX_MEMBERS = 65536


class Intent(StrEnum):
    """What members do: train, or save and exit."""

    RUN = "Run"
    SUSPEND = "Suspend"
    STOP = "Stop"


class Member(Model):
    """One pod of a round and the workers in it."""

    pod: Name
    uid: Token
    incarnation: Token
    host: Host
    """Where the agent of this pod serves the round's store, should the pod lead."""
    port: Port
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    grace_seconds: Seconds | None = None
    """Time from SIGTERM to SIGKILL, once the pod is being deleted: it may be less than usual."""

    @property
    def key(self) -> str:
        """Identity of the pod's present workers."""
        return f"{self.uid}.{self.incarnation}"


class Membership(Model):
    """The numbered document (spec of a TrainingMembership)."""

    protocol: Annotated[int, Field(ge=1, le=1000)] = PROTOCOL
    round: Count
    intent: Intent = Intent.RUN
    members: Annotated[tuple[Member, ...], Field(max_length=MAX_MEMBERS)] = ()
    """Pods that train in this round; the first leads."""
    leaving: Annotated[tuple[Member, ...], Field(max_length=MAX_MEMBERS)] = ()
    """Pods of earlier rounds that are alive and hand over their shards."""
    lost: Annotated[tuple[Member, ...], Field(max_length=MAX_MEMBERS)] = ()
    """Pods of earlier rounds that are gone with their shards."""
    probe: Count = 0
    """Agents echo this number in their reports; who does not, and is accused, is lost."""
    request_sequence: Count = 0
    """Newest batch-size request that the operator has taken into account."""

    @model_validator(mode="after")
    def _each_pod_once(self) -> Self:
        keys = [member.key for member in (*self.members, *self.leaving)]
        if len(keys) != len(set(keys)):
            raise ValueError(f"a pod is listed twice in round {self.round}: {sorted(keys)}")
        return self

    @property
    def world_size(self) -> int:
        """W: workers over all members."""
        return sum(member.workers for member in self.members)

    def workers(self) -> tuple[str, ...]:
        """Identities of the workers in rank order."""
        return workers_of(self.members)


class TrainingMembership(Model):
    """The membership as an object: what is stored in a file or in Kubernetes."""

    api_version: Literal["concertina.dev/v1alpha1"] = API_VERSION
    kind: Literal["TrainingMembership"] = "TrainingMembership"
    spec: Membership


def workers_of(members: tuple[Member, ...]) -> tuple[str, ...]:
    """Identities of all workers of some members: `uid.incarnation/local rank`."""
    return tuple(f"{member.key}/{local}" for member in members for local in range(member.workers))
