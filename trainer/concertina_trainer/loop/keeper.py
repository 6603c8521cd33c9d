"""Keeps the training state of a worker across rounds: live objects, or parts held in memory.

In a round the state is live: model, optimizer, average. Between rounds it is held as plain rows.
The transaction of a round (rounds/transaction.py) asks for what is held, hands over what the new
world needs, and says whether the new objects count.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import nn

from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.loop.live import Live
from concertina_trainer.loop.origin import Origin
from concertina_trainer.loop.part import part_of
from concertina_trainer.loop.progress import Progress
from concertina_trainer.rounds.agreement import Greeting, Part, Source, State
from concertina_trainer.rounds.keeper import Loaded
from concertina_trainer.rounds.transport import Groups
from concertina_trainer.schedule.controller import BatchController
from concertina_trainer.sharding.collect import hold, local_rows, parameter_names
from concertina_trainer.sharding.restore import (
    build_sharded,
    fill_model,
    restore_optimizer,
    settle,
)
from concertina_trainer.sharding.state import Holding
from concertina_trainer.snapshot.snapshots import Snapshots
from concertina_trainer.task import Task

log = logging.getLogger(__name__)


class StateKeeper:
    """The keeper of one worker (see rounds.keeper.Keeper)."""

    def __init__(
        self,
        spec: JobSpec,
        task: Task,
        *,
        device: torch.device,
        controller: BatchController,
        initial: Progress,
        origin: Origin,
        expect: Callable[[int, int, int, int], None],
    ) -> None:
        """`origin` gives what memory does not hold; `expect` aims the loader."""
        self._spec = spec
        self._task = task
        self._device = device
        self._controller = controller
        self._initial = initial
        self._origin = origin
        self._expect = expect
        self.held: list[Holding] = []
        """Parts in memory, while no round is live."""
        self._prepared: tuple[Live, Progress] | None = None
        self.live: Live | None = None
        self.progress = initial
        self.snapshots = Snapshots(spec.snapshots, workers_per_pod=spec.pods.workers_per_pod)
        self.number = 0
        """Round that is being entered, for what is prepared in it."""
        self._done = 0
        """The newest step that was done since the last commit, also when it was lost since."""
        self._trained = (0, 0)
        """Number and world size of the newest round that was committed."""

    def suspend(self) -> None:
        """Turn the live objects into held rows: the round they lived in ends."""
        if self.live is not None:
            self._done = max(self._done, self.progress.step)
            settle(self.live.model)
            self.live.optimizer.zero_grad(set_to_none=True)
            self.held = [_on_host(self.hold())]
            self.live = None

    def forget(self) -> None:
        """Drop what is live: it was left half changed and cannot be trusted."""
        self._done = max(self._done, self.progress.step)
        self.held, self._prepared, self.live = [], None, None
        self.progress = self._initial

    def hold(self) -> Holding:
        """The live state as rows; nothing is copied."""
        assert self.live is not None
        return self._hold(self.live, self.progress)

    def greeting(self) -> Greeting:
        """See Keeper. A state that was prepared, and perhaps committed elsewhere, is offered too."""
        if self._prepared is not None:
            # At most one state besides the old: of two prepared ones the newer is enough.
            self.held = [*self.held[:1], _on_host(self._hold(*self._prepared))]
            self._prepared = None
        number, world_size = self._trained
        return Greeting(
            parts=tuple(self._offers()),
            step=self._done,
            round=number,
            world_size=world_size,
        )

    def holdings(self, source: Source) -> dict[int, Holding]:
        """See Keeper."""
        shards = (shard for shard, _ in self.snapshots.offers())
        found = shards if source.snapshot else self.held
        return {part.rank: part for part in found if _state(part) == source.state}

    def expect(self, samples: int, *, batch: int, rank: int, world_size: int) -> None:
        """See Keeper."""
        self._expect(samples, batch, rank, world_size)

    def origin(self, groups: Groups) -> Holding | None:
        """See Keeper."""
        return self._origin(groups)

    def newer(self, groups: Groups, snapshot: State, *, world_size: int) -> Loaded | None:
        """See Keeper."""
        return self._origin.newer(groups, snapshot, world_size=world_size)

    def build(self, groups: Groups, holding: Holding) -> None:
        """See Keeper."""
        model = build_sharded(
            self._task,
            groups.mesh,
            precision=self._spec.training.precision,
            device=self._device,
        )
        tensors = holding.tensors
        assert isinstance(tensors, dict), "a state that was moved or read for this rank alone"
        with torch.no_grad():
            fill_model(model, tensors)
        parameters = parameter_names(model)
        optimizer = self._task.optimizer(
            [(name, value) for name, value in parameters.items() if value.requires_grad]
        )
        average, progress = self._adopt(model, optimizer, holding)
        live = Live(
            round=self.number, groups=groups, model=model, optimizer=optimizer, average=average
        )
        self._prepared = live, progress

    def commit(self, kept: State | None) -> None:
        """See Keeper."""
        if self._prepared is not None:
            self.live, self.progress = self._prepared
            self._done = self.progress.step
            self._trained = self.live.round, self.live.groups.world_size
        self._prepared = None
        self.held = []
        self.snapshots.keep(kept)

    def roll_back(self) -> None:
        """See Keeper."""
        self._prepared = None

    def take_up(self, snapshot: Holding) -> Holding:
        """Train on with the tensors of a snapshot of the present round; all ranks do the same.

        With those of a newer checkpoint, if there is one from before the steps that are being
        skipped. Returns whose.
        """
        assert self.live is not None
        present, groups = self.progress, self.live.groups
        loaded = self._origin.newer(
            groups,
            _state(snapshot),
            world_size=groups.world_size,
            before=present.step - present.skipped_in_a_row,
        )
        source = snapshot if loaded is None or loaded.part is None else loaded.part
        live = self.live
        live.optimizer.state.clear()  # a device may not have room for both
        live.average.clear()
        tensors = {name: rows.to(self._device, copy=True) for name, rows in source.tensors.items()}
        with torch.no_grad():
            fill_model(live.model, tensors)
        average, before = self._adopt(live.model, live.optimizer, replace(source, tensors=tensors))
        live.average.update(average)
        self.progress = present.rolled_back(before)
        return source

    def _adopt(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, holding: Holding
    ) -> tuple[dict[str, torch.Tensor], Progress]:
        """Give the optimizer its state back; returns the average and the progress."""
        tensors = holding.tensors
        assert isinstance(tensors, dict), "a state that was moved or read for this rank alone"
        progress = self._initial
        if "optimizer" in holding.extra:
            restore_optimizer(
                optimizer,
                model,
                entries=holding.entries,
                tensors=tensors,
                saved=holding.extra["optimizer"],
            )
            progress = Progress.from_json(holding.extra["progress"], controller=self._controller)
        average = {}
        if self._spec.training.average_decay is not None:
            for name, value in parameter_names(model).items():
                if value.requires_grad:
                    rows = tensors.pop(f"average/{name}", None)
                    average[name] = local_rows(name, value).clone() if rows is None else rows
        return average, progress

    def _offers(self) -> Iterator[Part]:
        """How that is told which is in memory."""
        for held in self.held:
            yield part_of(held)
        for shard, copied in self.snapshots.offers():
            yield part_of(shard).model_copy(update={"snapshot": True, "copied": copied})

    def _hold(self, live: Live, progress: Progress) -> Holding:
        return hold(
            live.model,
            live.optimizer,
            average=live.average,
            round=live.round,
            step=progress.step,
            world_size=live.groups.world_size,
            rank=live.groups.rank,
            extra={"progress": progress.to_json(), "samples": progress.samples},
        )


def _state(holding: Holding) -> State:
    """Which state it is a part of."""
    return State(holding.step, holding.round, holding.world_size)


def _on_host(holding: Holding) -> Holding:
    """The holding in host memory, so that the device is free for the new world."""
    if all(tensor.device.type == "cpu" for tensor in holding.tensors.values()):
        return holding
    on_host = {name: tensor.cpu() for name, tensor in holding.tensors.items()}
    return replace(holding, tensors=on_host)
