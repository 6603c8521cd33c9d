"""Snapshots on their way, in virtual time: what stands for memory and for the thread that sends.

snapshot/snapshots.py is real and decides; it is given these in place of SnapshotSet and Transfer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from concertina_trainer.rounds.agreement import State
from concertina_trainer.sharding.state import Holding
from concertina_trainer.snapshot.ring import Neighbours
from tests.simulation.network import Group

if TYPE_CHECKING:
    from tests.simulation.worker import Worker

RETRY_SECONDS = 0.2


@dataclass(slots=True)
class Shard:
    """A part of a snapshot."""

    holding: Holding
    whole: bool = False
    rows: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class SnapshotSet:
    """See snapshot.sets.SnapshotSet."""

    own: Shard | None = None
    kept: Shard | None = None
    grew: bool = True
    num_bytes: int = 0

    @property
    def state(self) -> State | None:
        """See snapshot.sets.SnapshotSet."""
        if self.own is None:
            return None
        holding = self.own.holding
        return State(holding.step, holding.round, holding.world_size)

    def begin(self, holding: Holding, *, charge: int) -> None:
        """See snapshot.sets.SnapshotSet."""
        self.own, self.kept = Shard(holding), Shard(replace(holding, rank=charge))

    def drop(self) -> None:
        """See snapshot.sets.SnapshotSet."""
        self.own = self.kept = None

    def free(self) -> None:
        """See snapshot.sets.SnapshotSet."""
        self.drop()

    def whole(self) -> Iterator[Shard]:
        """See snapshot.sets.SnapshotSet."""
        for shard in (self.own, self.kept):
            if shard is not None and shard.whole:
                yield shard


class Transfer:
    """See snapshot.transfer.Transfer."""

    def __init__(
        self, worker: "Worker", target: SnapshotSet, *, group: Group, ring: Neighbours
    ) -> None:
        self.target = target
        self.error: Exception | None = None
        self.ended = False
        self._worker, self._group, self._ring = worker, group, ring
        self._kernel = worker.kernel
        self._own, self._kept = target.own, target.kept
        self._cancelled = self._is_sent = False
        step = worker.world.step_seconds
        self._kernel.after(self._kernel.some(0.0, step), self._copied)
        self._kernel.after(self._kernel.some(step, 3 * step), self._sent)

    def wait_copied(self) -> None:
        """The optimizer is about to change what is copied: it is copied now."""
        self._copied()

    def join(self) -> None:
        """See snapshot.transfer.Transfer."""

    def cancel(self) -> None:
        """See snapshot.transfer.Transfer."""
        self._cancelled = True

    def received(self) -> bool:
        """The rows of the charge are here; False when this worker takes no more."""
        if self._cancelled or self._worker.process.dead:
            return False
        self._kept.whole = True
        self._look()
        return True

    def _copied(self) -> None:
        if not self._cancelled and not self._worker.process.dead:
            self._own.whole = True

    def _sent(self) -> None:
        worker, group = self._worker, self._group
        if self._cancelled or worker.process.dead:
            return
        other = group.members[self._ring.keeper].worker
        pair = {self._own.holding.rank, self._ring.keeper}
        if pair & (group.ended | group.snapshots_ended) or other.process.dead:
            self.error, self.ended = RuntimeError("gloo: connection closed"), True
            return
        reaches = worker.world.network.reaches(worker.place.uid, other.place.uid)
        theirs = other.transfer
        is_there = theirs is not None and theirs.target.state == self.target.state
        frozen = worker.process.frozen or other.process.frozen
        if frozen or not reaches or not is_there or not theirs.received():
            self._kernel.after(RETRY_SECONDS, self._sent)
            return
        self._is_sent = True
        self._look()

    def _look(self) -> None:
        self.ended = self.ended or (self._is_sent and self._kept.whole)
