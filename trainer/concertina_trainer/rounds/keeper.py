"""What the transaction of a round asks of whoever keeps a worker's training state.

Called by rounds/transaction.py; the loop's keeper (loop/keeper.py) answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from concertina_trainer.rounds.agreement import Greeting, Source, State
from concertina_trainer.rounds.transport import Groups
from concertina_trainer.sharding.state import Holding


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A checkpoint that all participants found sound."""

    part: Holding | None
    """This rank's part of the new world; None for a leaver."""


class Keeper(Protocol):
    """Keeps the training state of a worker across rounds."""

    def greeting(self) -> Greeting:
        """What this worker holds."""

    def holdings(self, source: Source) -> Mapping[int, Holding]:
        """The parts of a state that are in this worker's memory, by old rank."""

    def expect(self, samples: int, *, batch: int, rank: int, world_size: int) -> None:
        """Training will go on from here with this batch: a chance to load data ahead."""

    def origin(self, groups: Groups) -> Holding | None:
        """The state to start from when nobody holds one, as parts of a world of any size.

        Either this rank's part of the new world, read from a checkpoint, or on rank 0 the whole
        initial state and None elsewhere. Collective over `groups`.
        """

    def newer(self, groups: Groups, snapshot: State, *, world_size: int) -> Loaded | None:
        """The newest sound checkpoint that is ahead of a snapshot, for a world of that size.

        None when there is none. Collective over `groups`, in which leavers follow the members.
        """

    def build(self, groups: Groups, holding: Holding) -> None:
        """Build live objects from this rank's part of the new world; the old ones stay.

        Takes the tensors out of `holding` as it goes, so that no row is in memory twice for long.
        """

    def commit(self, kept: State | None) -> None:
        """The new objects are the state; drop the old, and all snapshots but the one of `kept`."""

    def roll_back(self) -> None:
        """The round is given up; drop the new objects."""
