"""What the participants of a round tell each other before rows move, and what follows from it.

Pure: no I/O, no clock, no torch. Every participant reads the same greetings and resolves them
alike, so no rank is special and any of them may leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose

from concertina_api.v1alpha1.base import Count, Finite, Model

TOLERANCE = 1e-4
"""Relative difference of norms that rounding explains; matrix products depend on alignment."""


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

    @property
    def state(self) -> tuple[int, int, int]:
        """What the part is a part of: newest first when sorted downwards."""
        return self.step, self.round, self.world_size


class Greeting(Model):
    """What a participant offers to a round."""

    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The state that a round starts from, and which participant holds each part of it."""

    round: int
    step: int
    world_size: int
    holders: tuple[int, ...]
    """Participant number by old rank."""


def source_of(greetings: Sequence[Greeting]) -> Source | None:
    """The newest state of which every part is present; None when there is none.

    Two complete states of one step are the same state before and after a resize that was
    interrupted between preparing and committing, so either is right.
    """
    found: dict[tuple[int, int, int], dict[int, int]] = {}
    for participant, greeting in enumerate(greetings):
        for part in greeting.parts:
            found.setdefault(part.state, {}).setdefault(part.rank, participant)
    complete = [state for state, parts in found.items() if len(parts) == state[2]]
    if not complete:
        return None
    step, number, world_size = best = max(complete)
    holders = tuple(found[best][rank] for rank in range(world_size))
    return Source(round=number, step=step, world_size=world_size, holders=holders)


def disagreement(source: Source, greetings: Sequence[Greeting]) -> str | None:
    """A sentence when replicated tensors differ between the holders of a state, else None."""
    state = source.step, source.round, source.world_size
    held = [
        next(part for part in greetings[participant].parts if part.state == state)
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
