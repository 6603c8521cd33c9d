"""The host memory of snapshots: a set holds a worker's own part and its neighbour's.

Called by snapshots.py, and filled by transfer.py from a thread of its own. A shard is one flat
block, so that it travels as one message; a block grows only when a shard is larger than ever
before, because fresh pages cost several times the copy itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch

from concertina_trainer.checkpoint.host_copy import cut, num_bytes
from concertina_trainer.rounds.agreement import State
from concertina_trainer.sharding.layout import row_range
from concertina_trainer.sharding.state import Entry, Holding, Kind


@dataclass(slots=True, kw_only=True)
class Shard:
    """A part of a snapshot in the memory of a set."""

    holding: Holding
    """Rows in the set's memory; what is replicated, the worker's own copy."""
    rows: Mapping[str, torch.Tensor]
    """The sharded tensors, as pieces of `flat`."""
    flat: torch.Tensor
    """All rows as bytes; laid out alike by whoever knows the entries."""
    whole: bool = False
    """All rows are there."""


@dataclass(slots=True)
class SnapshotSet:
    """Memory for one snapshot, and the one in it."""

    _memory: list[torch.Tensor] = field(default_factory=lambda: _no_memory())
    own: Shard | None = None
    kept: Shard | None = None
    """The neighbour's."""
    grew: bool = False
    """The newest snapshot needed fresh memory."""

    @property
    def state(self) -> State | None:
        """Which state is in the set; None while there is none."""
        if self.own is None:
            return None
        holding = self.own.holding
        return State(holding.step, holding.round, holding.world_size)

    @property
    def num_bytes(self) -> int:
        """Host memory of both shards."""
        return sum(len(block) for block in self._memory)

    def begin(self, holding: Holding, *, charge: int) -> None:
        """Make room for a snapshot of `holding`, and copy at once what is equal on all ranks.

        The rows follow by transfer.py; `charge` is the old rank of the neighbour's part.
        """
        self.drop()
        self.grew = False
        pinned = any(tensor.is_cuda for tensor in holding.tensors.values())
        replicated = {
            name: holding.tensors[name].detach().to("cpu", copy=True)
            for name, entry in holding.entries.items()
            if entry.kind is Kind.REPLICATED
        }
        self.own = self._shard(0, holding, replicated, rank=holding.rank, pinned=pinned)
        self.kept = self._shard(1, holding, replicated, rank=charge, pinned=pinned)

    def drop(self) -> None:
        """There is no snapshot in the set any more; the memory stays."""
        self.own = self.kept = None

    def free(self) -> None:
        """Give the memory back, and with it the snapshot."""
        self.drop()
        self._memory = _no_memory()

    def whole(self) -> Iterator[Shard]:
        """The shards of which all rows are there."""
        for shard in (self.own, self.kept):
            if shard is not None and shard.whole:
                yield shard

    def _shard(
        self,
        index: int,
        holding: Holding,
        replicated: Mapping[str, torch.Tensor],
        *,
        rank: int,
        pinned: bool,
    ) -> Shard:
        like = rows_of(holding.entries, world_size=holding.world_size, rank=rank)
        total = num_bytes(like)
        if len(self._memory[index]) < total:
            # The old block goes first: never both at once.
            self._memory[index] = torch.empty(0, dtype=torch.uint8)
            self._memory[index] = torch.empty(total, dtype=torch.uint8, pin_memory=pinned)
            self.grew = True
        flat = self._memory[index][:total]
        rows = cut(flat, like)
        tensors = {
            name: rows[name] if name in rows else replicated[name] for name in holding.entries
        }
        part = replace(holding, rank=rank, tensors=tensors)
        return Shard(holding=part, rows=rows, flat=flat)


def _no_memory() -> list[torch.Tensor]:
    """For the own shard and for the neighbour's."""
    return [torch.empty(0, dtype=torch.uint8) for _ in range(2)]


def rows_of(entries: Mapping[str, Entry], *, world_size: int, rank: int) -> dict[str, torch.Tensor]:
    """The shapes of the rows that `rank` holds of each sharded tensor, without their values."""
    shapes = {}
    for name, entry in entries.items():
        if entry.kind is Kind.SHARDED:
            start, stop = row_range(entry.shape[0], world_size=world_size, rank=rank)
            shape = (stop - start, *entry.shape[1:])
            shapes[name] = torch.empty(shape, dtype=entry.dtype, device="meta")
    return shapes


def shard_bytes(entries: Mapping[str, Entry], *, world_size: int) -> int:
    """Host memory of the largest shard, which is that of rank 0."""
    return num_bytes(rows_of(entries, world_size=world_size, rank=0))
