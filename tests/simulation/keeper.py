"""What one worker holds: the live state, held parts, and the snapshots of itself and its neighbour.

A model of loop/keeper.py, with states in place of tensors, around the real snapshots: the real
transaction asks it what to offer, and the real agreement decides what is taken.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from concertina_trainer.rounds.agreement import Greeting, Part, Source
from concertina_trainer.rounds.keeper import Loaded
from concertina_trainer.sharding.state import Holding
from concertina_trainer.snapshot.snapshots import Snapshots
from tests.simulation.history import Judge, Shard, State

if TYPE_CHECKING:
    from tests.simulation.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the rounds and the pacing read of the product's progress."""

    step: int
    samples: int
    global_batch_size: int
    controller: Any
    stopped: bool = False

    @staticmethod
    def of(state: State) -> "Progress":
        """Where a state is."""
        return Progress(
            step=state.step,
            samples=state.samples,
            global_batch_size=state.batch.batch,
            controller=state.batch,
        )


@dataclass(slots=True, kw_only=True)
class Live:
    """The state that trains in a round."""

    round: int
    groups: Any
    state: State
    model: None = None


class Keeper:
    """See rounds.keeper.Keeper."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self.live: Live | None = None
        self.held: list[Holding] = []
        spec = worker.world.job.spec
        self.snapshots = Snapshots(spec.snapshots, workers_per_pod=spec.pods.workers_per_pod)
        self.number = 0
        self.newest_step = 0
        self.newest_round = 0
        self.newest_size = 0
        self._prepared: Live | None = None
        self._initial = Progress.of(worker.world.initial)
        self.progress = self._initial

    def suspend(self) -> None:
        """What is live is held from now on."""
        if self.live is not None:
            self.held = [self.hold()]
            self.live = None

    def forget(self) -> None:
        """A step had begun to change the state: it is none any more; snapshots are untouched."""
        self.held, self._prepared, self.live = [], None, None
        self.progress = self._initial

    def hold(self) -> Holding:
        """The live state as a part."""
        assert self.live is not None
        return _holding(self.live, self.live.state)

    def greeting(self) -> Greeting:
        """See Keeper."""
        if self._prepared is not None:
            prepared = _holding(self._prepared, self._prepared.state)
            self.held = [*self.held[:1], prepared]
            self._prepared = None
        return Greeting(
            parts=tuple(part for _, part in self._offers()),
            step=self.newest_step,
            round=self.newest_round,
            world_size=self.newest_size,
        )

    def holdings(self, source: Source) -> Mapping[int, Holding]:
        """See Keeper."""
        self._worker.world.sources[self.number] = "snapshot" if source.snapshot else "memory"
        return {part.rank: held for held, part in self._offers() if source.includes(part)}

    def expect(self, samples: int, *, batch: int, rank: int, world_size: int) -> None:
        """See Keeper."""

    def origin(self, groups: Any) -> Holding | None:
        """See Keeper: the newest checkpoint that the leader finds, else the seed."""
        worker = self._worker
        transport, group = worker.transport, groups.control
        found = worker.world.storage.latest if groups.rank == 0 else None
        transport.tell(group, groups.rank, "origin", found)
        found = transport.hear(group, groups.rank, "origin")[0]
        worker.world.sources[self.number] = "seed" if found is None else "checkpoint"
        if found is not None:
            return _whole(found, groups.world_size, groups.rank)
        return _whole(worker.world.initial, 1, 0) if groups.rank == 0 else None

    def newer(self, groups: Any, snapshot: Any, *, world_size: int) -> Loaded | None:
        """See Keeper: the newest checkpoint that the leader finds, if it is ahead."""
        worker = self._worker
        transport, group = worker.transport, groups.control
        found, storage = None, worker.world.storage
        if groups.rank == 0 and storage.latest is not None:
            is_ahead = (storage.round, storage.latest.step) > (snapshot.round, snapshot.step)
            found = storage.latest if is_ahead else None
        transport.tell(group, groups.rank, "newer", found)
        found = transport.hear(group, groups.rank, "newer")[0]
        if found is None:
            return None
        worker.world.sources[self.number] = "checkpoint"
        leaves = groups.rank >= world_size
        return Loaded(part=None if leaves else _whole(found, world_size, groups.rank))

    def build(self, groups: Any, holding: Holding) -> None:
        """See Keeper."""
        self._worker.process.sleep(self._worker.kernel.some(0.001, 0.3))
        self._prepared = Live(round=self.number, groups=groups, state=holding.tensors["state"])

    def commit(self, kept: Any) -> None:
        """See Keeper."""
        prepared = self._prepared
        if prepared is not None:
            self._worker.committed(prepared)
            self.live, self.progress = prepared, Progress.of(prepared.state)
            self.newest_round = prepared.round
            self.newest_size = prepared.groups.world_size
            self.newest_step = prepared.state.step
        self._prepared, self.held = None, []
        self.snapshots.keep(kept)

    def roll_back(self) -> None:
        """See Keeper."""
        self._prepared = None

    @property
    def prepared(self) -> Live | None:
        """Built, and not committed yet."""
        return self._prepared

    def advance(self, state: State) -> None:
        """A step is done."""
        assert self.live is not None
        Judge.check(state.parent is self.live.state, f"{state!r} is not after {self.live.state!r}")
        self.live.state = state
        controller = replace(state.batch)
        self.progress = replace(Progress.of(state), controller=controller)
        self.newest_step = state.step

    def _offers(self) -> Iterator[tuple[Holding, Part]]:
        for held in self.held:
            yield held, _part(held)
        for shard, copied in self.snapshots.offers():
            yield shard, _part(shard, snapshot=True, copied=copied)


def shards_of(holdings: Mapping[int, Holding]) -> dict[int, Shard]:
    """What is sent of these holdings, by old rank."""
    return {
        rank: Shard(holding.tensors["state"], holding.world_size, rank)
        for rank, holding in holdings.items()
    }


def _part(held: Holding, *, snapshot: bool = False, copied: bool = False) -> Part:
    return Part(
        round=held.round,
        step=held.step,
        world_size=held.world_size,
        rank=held.rank,
        replicated={},
        norms={},
        snapshot=snapshot,
        copied=copied,
    )


def _holding(live: Live, state: State) -> Holding:
    groups = live.groups
    return _made(state, live.round, groups.world_size, groups.rank)


def _whole(state: State, world_size: int, rank: int) -> Holding:
    return _made(state, 0, world_size, rank)


def _made(state: State, round_: int, world_size: int, rank: int) -> Holding:
    return Holding(
        round=round_,
        step=state.step,
        world_size=world_size,
        rank=rank,
        entries={},
        tensors={"state": state},
        extra={"progress": {"samples": state.samples, "globalBatchSize": state.batch.batch}},
    )
