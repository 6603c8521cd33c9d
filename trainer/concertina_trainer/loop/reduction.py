"""What all ranks must know of a step, summed over its micro-batches and over them in one vector.

Called by the step (loop/step.py). One all-reduce carries all of it: a second would cost as much
again, whatever its length.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from concertina_trainer.loop.world import World
from concertina_trainer.rounds.control import Agreement
from concertina_trainer.rounds.waiting import finish
from concertina_trainer.schedule.spikes import Skipped
from concertina_trainer.statistics.norms import local_square_norm
from concertina_trainer.task import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What all ranks know after a step."""

    loss: float
    """Mean over the weight."""
    metrics: Mapping[str, float]
    weighted_squares: float
    """R of schedule/estimator.py."""
    square_norm: float
    """|g|^2 of the mean gradient, before clipping."""
    weight: float
    num_micro_batches: int
    """Real ones that had any weight."""
    batch: int
    """Global batch that rank 0 has decided for the next step."""
    finite: bool
    """Whether loss and gradient are."""
    skipped: Skipped | None
    """Why parameters are as before; None when they are not."""
    micro_batch_seconds: float
    worker_seconds: float
    """Time that all workers together spent in the step, up to here, and after the one before."""
    waits: tuple[float, ...]
    """Seconds that each rank has waited for others since the reduction before."""
    agreement: Agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """Sums over all ranks; `metrics` too are sums over micro-batches."""

    weighted_squares: float
    """R of schedule/estimator.py."""
    shares: float
    """|sum of the gradients / W|^2."""
    batch: float
    """What rank 0 has decided."""
    slot_seconds: float
    tail_seconds: float
    counted: float
    """Micro-batches with any weight."""
    loss: float
    weight: float
    metrics: Mapping[str, float]
    presence: tuple[float, ...]
    """Of buffers (see statistics/buffers.py)."""
    waits: tuple[float, ...]

    def mean(self, value: float) -> float:
        """A sum, by weight; not a number when nothing has any."""
        return value / self.weight if self.weight else math.nan


class Sums:
    """Sums over the micro-batches of one worker, in double precision on its device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, loss: Loss, *, real: bool) -> None:
        """One more micro-batch; of one that is a repeat only the names count."""
        values = {
            "loss": loss.total,
            "weight": loss.weight,
            "counted": torch.as_tensor(loss.weight) > 0,
        } | {f"metric/{name}": value for name, value in loss.metrics.items()}
        for name, value in values.items():
            self._add(name, value if real else 0.0)

    def reduce(
        self, world: World, *, next_batch: int, started: float, slots: int, tail_seconds: float
    ) -> Reduced:
        """Sum over all ranks of the round: a collective.

        `next_batch` counts on rank 0. The step has `started` then, in time.perf_counter(), and ran
        so many `slots`; the one before took `tail_seconds` after its reduction.
        """
        groups, live = world.live.groups, world.live
        share = local_square_norm(
            (p.grad for p in live.parameters if p.grad is not None), world_size=groups.world_size
        )
        head = [world.probe.take().double(), torch.as_tensor(share).double()]
        slot_seconds = (time.perf_counter() - started) / slots
        facts = [float(next_batch if groups.rank == 0 else 0), slot_seconds, tail_seconds]
        waits = [0.0] * groups.world_size
        waits[groups.rank] = world.waits.take()
        metrics = sorted(name for name in self._sums if "/" in name)
        sums = [self._sums[name] for name in ("counted", "loss", "weight", *metrics)]
        parts = [self._stack(head), facts, self._stack(sums), world.buffers.presence(), waits]
        vector = torch.cat(
            [torch.as_tensor(part, dtype=torch.float64, device=self._device) for part in parts]
        )
        with world.waits.counted():
            finish(dist.all_reduce(vector, async_op=True), groups)
        return _reduced(vector.tolist(), metrics, world_size=groups.world_size)

    def _add(self, name: str, value: float | torch.Tensor) -> None:
        seen = self._sums.get(name)
        if isinstance(value, torch.Tensor):
            value = value.detach().double().to(self._device)
        else:
            value = torch.tensor(value, dtype=torch.float64, device=self._device)
        self._sums[name] = value if seen is None else seen + value

    def _stack(self, values: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([value.to(self._device) for value in values])


def _reduced(values: list[float], metrics: list[str], *, world_size: int) -> Reduced:
    """What is where in the vector."""
    weighted_squares, shares, batch, slot_seconds, tail_seconds, counted, loss, weight = values[:8]
    end = 8 + len(metrics)
    return Reduced(
        weighted_squares=weighted_squares,
        shares=shares,
        batch=batch,
        slot_seconds=slot_seconds,
        tail_seconds=tail_seconds,
        counted=counted,
        loss=loss,
        weight=weight,
        metrics={
            name.removeprefix("metric/"): value
            for name, value in zip(metrics, values[8:end], strict=True)
        },
        presence=tuple(values[end:-world_size]),
        waits=tuple(values[-world_size:]),
    )
