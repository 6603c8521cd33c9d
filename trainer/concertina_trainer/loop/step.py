"""One optimizer step: micro-batches in, statistics and an updated model out.

The session hands a Step to whoever drives the loop. A step runs N micro-batches spread over W
workers, repeats one with weight zero where W does not divide N, adds up sums and weights, and
reduces everything it needs to know in one vector.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule

from concertina_api.batch import accumulation, slots_of
from concertina_api.errors import InvalidJob, TrainingFailed
from concertina_api.v1alpha1 import GradientSync, Training
from concertina_trainer.loop.world import World
from concertina_trainer.rounds.control import Agreement, Flags
from concertina_trainer.rounds.transport import is_broken
from concertina_trainer.schedule.order import seed_of
from concertina_trainer.schedule.spikes import Losses, Skipped, skipped
from concertina_trainer.sharding.restore import settle
from concertina_trainer.statistics.norms import local_square_norm
from concertina_trainer.task import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Which samples a step consumes and how they are cut."""

    first_sample: int
    num_micro_batches: int
    micro_batch_size: int
    seed: int

    @property
    def global_batch_size(self) -> int:
        """Samples of the step."""
        return self.num_micro_batches * self.micro_batch_size


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


class Step:
    """A step in the making.

    Use it as a context manager: leaving it finishes the step, and a round that breaks inside is
    caught, so that the session can enter the next one. Without `with`, call `finish()`.
    """

    _world: World

    def __init__(
        self,
        world: World,
        geometry: Geometry,
        *,
        training: Training,
        losses: Losses,
        learning_rate: float,
        next_batch: int,
        beat_every: int,
        flags: Callable[[int], Flags],
        tail_seconds: float = 0.0,
    ) -> None:
        """`flags(slots left)` says what this worker knows; `next_batch` counts on rank 0.

        `losses` are those of the steps before, from which a spike is told.

        `tail_seconds`: what the step before took after its reduction.
        """
        self._world = world
        self.geometry = geometry
        self._training = training
        self._losses = losses
        self.learning_rate = learning_rate
        self._next_batch = next_batch
        self._beat_every = beat_every
        self._flags = flags
        self._tail_seconds = tail_seconds
        self._sums: dict[str, torch.Tensor] = {}
        self._real = True
        self.slots_done = 0
        self.seconds = 0.0
        self.tail_seconds = 0.0
        """Time after the reduction."""
        self._start = time.perf_counter()
        self.last_sign = self._start
        """When a micro-batch last went through, which takes all workers; in time.perf_counter()."""
        self.result: StepResult | None = None
        self.broken: BaseException | None = None
        self.abandoned = False
        self.changing = False
        """True while the optimizer changes parameters: what is left then is no state."""

    @property
    def model(self) -> nn.Module:
        """The sharded model of the present round; not to be kept beyond the step."""
        return self._world.live.model

    @property
    def slots(self) -> int:
        """Micro-batches that every worker runs: ceil(N / W)."""
        return accumulation(self.geometry.num_micro_batches, self._world.live.groups.world_size)

    def micro_batches(self) -> Iterator[Any]:
        """This worker's micro-batches, then repeats of one with weight zero."""
        geometry, groups = self.geometry, self._world.live.groups
        slots = slots_of(geometry.num_micro_batches, world_size=groups.world_size, rank=groups.rank)
        self._world.probe  # noqa: B018 - attached by all ranks at the same place
        self._world.waits  # noqa: B018
        for index, slot in enumerate(slots):
            if index % self._beat_every == 0:
                agreement = self._world.control.beat(self._flags(len(slots) - index))
                if index > 0 and agreement.abandon:
                    self._abandon()
                    return
            self._real = slot.real
            self._synchronize(last=index == len(slots) - 1)
            first = geometry.first_sample + slot.number * geometry.micro_batch_size
            batch = self._world.loader.get(first)
            seed_forward(seed_of(geometry.seed, first), self._world.device)
            yield on_device(batch, self._world.device)
            if self.slots_done != index + 1:
                raise TrainingFailed("each micro-batch needs exactly one call of step.backward")
        self._world.loader.done()

    def backward(self, loss: Loss) -> None:
        """Add the gradient of a micro-batch's loss."""
        if not isinstance(loss, Loss):
            raise InvalidJob(f"loss() must return a Loss, got {type(loss).__name__}")
        if self._real:
            with self._world.probe.micro_batch(loss.weight):
                torch.autograd.backward(loss.total)
            self._add("loss", loss.total.detach())
            self._add("weight", loss.weight)
            self._add("counted", torch.as_tensor(loss.weight) > 0)
            for name, value in loss.metrics.items():
                self._add(f"metric/{name}", value)
        else:
            # The same collectives as the others, a gradient of zero, nothing counted.
            torch.autograd.backward(loss.total * 0.0)
            for name in ("loss", "weight", "counted", *(f"metric/{name}" for name in loss.metrics)):
                self._add(name, 0.0)
        self._world.buffers.end_micro_batch(weight=1.0 if self._real else 0.0)
        self.slots_done += 1
        self.last_sign = time.perf_counter()

    def finish(self) -> None:
        """Reduce, clip, update. Does nothing after `abandoned` or `broken`."""
        if self.abandoned or self.broken is not None or self.result is not None:
            return
        if self.slots_done != self.slots:
            raise TrainingFailed(
                f"the step ended after {self.slots_done} of {self.slots} micro-batches"
            )
        live = self._world.live
        world_size = live.groups.world_size
        vector = self._reduced_vector()
        values = vector.tolist()
        reduced_at = self.last_sign = time.perf_counter()
        weighted_squares, shares, batch, seconds, tails, counted, loss, weight = values[:8]
        names = [name for name in sorted(self._sums) if "/" in name]
        metrics, presence = values[8 : 8 + len(names)], values[8 + len(names) : -world_size]
        # FSDP averages over ranks: what is in .grad is the sum of all totals, divided by W.
        scale = world_size / weight if weight else math.nan
        square_norm = shares * scale**2
        mean_loss = loss / weight if weight else math.nan
        finite = all(map(math.isfinite, (weighted_squares, square_norm, loss, scale)))
        # From reduced values alone: all ranks decide alike.
        why_not = skipped(
            mean_loss,
            finite=finite,
            before=self._losses,
            deviations=self._training.spike_deviations,
        )
        agreement = self._world.control.collect()
        if why_not is None:
            self._update(scale * self._clip_factor(square_norm))
            self._world.buffers.end_step(
                presence, num_micro_batches=self.geometry.num_micro_batches
            )
        else:
            self._world.buffers.discard()
        live.optimizer.zero_grad(set_to_none=True)
        now = time.perf_counter()
        self.seconds, self.tail_seconds = now - self._start, now - reduced_at
        self.result = StepResult(
            loss=mean_loss,
            metrics={
                name.removeprefix("metric/"): value / weight if weight else math.nan
                for name, value in zip(names, metrics, strict=True)
            },
            num_micro_batches=round(counted),
            weighted_squares=weighted_squares,
            square_norm=square_norm,
            weight=weight,
            batch=round(batch),
            finite=finite,
            skipped=why_not,
            micro_batch_seconds=seconds / world_size,
            worker_seconds=seconds * self.slots + tails,
            waits=tuple(values[-world_size:]),
            agreement=agreement,
        )

    def release(self) -> None:
        """Let go of the round's objects, so that a resize can free them; the result stays."""
        del self._world
        self.broken = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        try:
            if error is None:
                self.finish()
        except Exception as late:
            if not is_broken(late):
                raise
            error = late
        if error is not None and is_broken(error):
            self.broken = error
            return True
        return False

    def _add(self, name: str, value: float | torch.Tensor) -> None:
        seen = self._sums.get(name)
        if isinstance(value, torch.Tensor):
            value = value.detach().double().to(self._world.device)
        else:
            value = torch.tensor(value, dtype=torch.float64, device=self._world.device)
        self._sums[name] = value if seen is None else seen + value

    def _synchronize(self, *, last: bool) -> None:
        if self._training.gradient_sync is GradientSync.LAST_MICRO_BATCH:
            model = self.model
            if not isinstance(model, FSDPModule):
                raise InvalidJob("gradientSync LastMicroBatch needs fully_shard on the root")
            model.set_requires_gradient_sync(last)

    def _reduced_vector(self) -> torch.Tensor:
        """What all ranks must know, summed over them.

        [R, shares of |sum / W|^2, batch, seconds of a slot, seconds after the reduction before,
        counted, loss, weight, metrics..., buffers..., waits by rank]
        """
        live, device = self._world.live, self._world.device
        share = local_square_norm(
            (p.grad for p in live.parameters if p.grad is not None),
            world_size=live.groups.world_size,
        )
        head = [self._world.probe.take().double(), torch.as_tensor(share).double()]
        seconds = (time.perf_counter() - self._start) / self.slots
        batch = float(self._next_batch if live.groups.rank == 0 else 0)
        facts = [batch, seconds, self._tail_seconds]
        waits = [0.0] * live.groups.world_size
        waits[live.groups.rank] = self._world.waits.take()
        sums = [self._sums[name] for name in ("counted", "loss", "weight")]
        sums += [self._sums[name] for name in sorted(self._sums) if "/" in name]
        vector = torch.cat(
            [
                torch.stack([value.to(device) for value in head]),
                torch.tensor(facts, dtype=torch.float64, device=device),
                torch.stack([value.to(device) for value in sums]),
                torch.tensor(self._world.buffers.presence(), dtype=torch.float64, device=device),
                torch.tensor(waits, dtype=torch.float64, device=device),
            ]
        )
        with self._world.waits.counted():
            dist.all_reduce(vector)
        return vector

    def _clip_factor(self, square_norm: float) -> float:
        clip = self._training.gradient_clip
        return 1.0 if clip is None else min(1.0, clip / (math.sqrt(square_norm) + 1e-6))

    def _update(self, factor: float) -> None:
        live = self._world.live
        gradients = [rows_of(p.grad) for p in live.parameters if p.grad is not None]
        torch._foreach_mul_(gradients, factor)
        for group in live.optimizer.param_groups:
            group["lr"] = self.learning_rate * group.get("lr_scale", 1.0)
        self._world.before_update()
        self.changing = True
        live.optimizer.step()
        decay = self._training.average_decay
        if decay is not None:
            live.update_average(1 - decay)
        self.changing = False

    def _abandon(self) -> None:
        """Drop what was accumulated: the same samples are run again in the next round."""
        self.abandoned = True
        self._world.control.collect()  # nothing may be under way when the groups are ended
        self._world.probe.take()
        self._world.buffers.discard()
        settle(self.model)
        self._world.live.optimizer.zero_grad(set_to_none=True)


def seed_forward(seed: int, device: torch.device) -> None:
    """Seed the generators that a forward pass draws from.

    torch.manual_seed seeds those of every backend, and formats a stack trace for each that is not
    initialised: milliseconds per micro-batch.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def rows_of(gradient: torch.Tensor) -> torch.Tensor:
    """The local rows of a sharded gradient."""
    local: torch.Tensor = getattr(gradient, "_local_tensor", gradient)
    return local


def on_device(batch: Any, device: torch.device) -> Any:
    """The same structure with its tensors on `device`."""
    match batch:
        case torch.Tensor():
            return batch.to(device, non_blocking=True)
        case dict():
            return {key: on_device(value, device) for key, value in batch.items()}
        case tuple() if hasattr(batch, "_fields"):
            return type(batch)(*(on_device(value, device) for value in batch))
        case list() | tuple():
            return type(batch)(on_device(value, device) for value in batch)
        case _:
            return batch
