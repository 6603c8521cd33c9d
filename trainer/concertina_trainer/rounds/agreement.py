"""What the participants of a round tell each other before rows move, and what follows from it.

Pure: no I/O, no clock, no torch. Every participant reads the same greetings and resolves them
alike, so no rank is special and any of them may leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose
from typing import NamedTuple

from concertina_api.v1alpha1.base import Count, Finite, Model

TOLERANCE = 1e-4
"""Relative difference of norms that rounding explains; matrix products depend on alignment."""


class State(NamedTuple):
    """Which state parts belong to; the newest is the largest."""

    step: int
    round: int
    world_size: int


class Part(Model):
    """A part of a training state that a worker holds in memory."""

    round: Count
    step: Count
    world_size: Count
    rank: Count
    replicated: dict[str, Count]
    """Checksums of what must be equal on all ranks, by what it is."""
    norms: dict[str, Finite]
    """Norms of what each rank computes alike up to rounding (matrices of an optimizer)."""
    snapshot: bool = False
    """Part of a snapshot, which stays in memory when another state is committed."""
    copied: bool = False
    """Kept for the neighbour whose part it is."""

    @property
    def state(self) -> State:
        """What the part is a part of."""
        return State(self.step, self.round, self.world_size)


class Greeting(Model):
    """What a participant offers to a round."""

    parts: tuple[Part, ...] = ()
    step: Count = 0
    """The newest step that this worker has done, whether it still holds that state or not."""
    round: Count = 0
    """The newest round that it has trained in; 0 before the first."""
    world_size: Count = 0
    """Workers of that round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The state that a round starts from, and which participant holds each part of it."""

    round: int
    step: int
    world_size: int
    holders: tuple[int, ...]
    """Participant number by old rank."""
    snapshot: bool = False
    """It is a snapshot."""

    @property
    def state(self) -> State:
        """Which state it is."""
        return State(self.step, self.round, self.world_size)

    def includes(self, part: Part) -> bool:
        """Whether the part is one of this state."""
        return part.state == self.state and part.snapshot == self.snapshot


def source_of(greetings: Sequence[Greeting]) -> Source | None:
    """The newest state of which every part is present; None when there is none.

    Two complete states of one step are the same state before and after a resize that was
    interrupted between preparing and committing, so either is right. A snapshot is no part of a
    state that is held: an evaluation may have gone on since. What a worker offers of its own goes
    before what it keeps for a neighbour.
    """
    found: dict[tuple[State, bool], dict[int, tuple[bool, int]]] = {}
    for participant, greeting in enumerate(greetings):
        for part in greeting.parts:
            parts = found.setdefault((part.state, not part.snapshot), {})
            offer = part.copied, participant
            parts[part.rank] = min(parts.get(part.rank, offer), offer)
    complete = [key for key, parts in found.items() if len(parts) == key[0].world_size]
    if not complete:
        return None
    state, held = best = max(complete)
    return Source(
        round=state.round,
        step=state.step,
        world_size=state.world_size,
        holders=tuple(found[best][rank][1] for rank in range(state.world_size)),
        snapshot=not held,
    )


def kept_of(greetings: Sequence[Greeting]) -> State | None:
    """The snapshot that stays in memory while there is none of the new round.

    `greetings` are those of the new members. Of what they hold whole, the one that the loss of the
    fewest of them would break, and the newest of these: none can break it where two hold every
    part, many where neighbours have no copies yet. What else there is, is dropped.
    """
    holders: dict[State, dict[int, set[int]]] = {}
    for member, greeting in enumerate(greetings):
        for part in greeting.parts:
            if part.snapshot:
                holders.setdefault(part.state, {}).setdefault(part.rank, set()).add(member)
    breakers = {
        state: len(set().union(*(held for held in found.values() if len(held) == 1)))
        for state, found in holders.items()
        if len(found) == state.world_size
    }
    return max(breakers, key=lambda state: (-breakers[state], state), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What the participants of a round have lost since the newest round that any trained in."""

    step: int
    """The newest step that any of them has done."""
    world_size: int
    """Workers of the newest round; 0 before the first."""
    workers: int
    """Of these, those that do not take part: lost with what they held."""


def losses_of(greetings: Sequence[Greeting]) -> Losses:
    """What was lost, as far as those who are left know."""
    newest = max(greetings, key=lambda greeting: greeting.round)
    present = sum(greeting.round == newest.round for greeting in greetings)
    return Losses(
        step=max(greeting.step for greeting in greetings),
        world_size=newest.world_size,
        workers=max(0, newest.world_size - present),
    )


def disagreement(source: Source, greetings: Sequence[Greeting]) -> str | None:
    """A sentence when replicated tensors differ between the holders of a state, else None."""
    held = [
        next(part for part in greetings[participant].parts if source.includes(part))
        for participant in source.holders
    ]
    first = held[0]
    for what in (*first.replicated, *first.norms):
        others = [rank for rank, part in enumerate(held) if not _agree(what, part, first)]
        if others:
            return (
                f"{what} must be equal on all ranks, but after step {source.step} ranks {others}"
                " hold other values than rank 0"
            )
    return None


def _agree(what: str, part: Part, first: Part) -> bool:
    if what in first.replicated:
        return part.replicated.get(what) == first.replicated[what]
    return what in part.norms and isclose(part.norms[what], first.norms[what], rel_tol=TOLERANCE)
