"""One optimizer step: micro-batches in, statistics and an updated model out.

The session hands a Step to whoever drives the loop. A step runs N micro-batches spread over W
workers, repeats one with weight zero where W does not divide N, adds up sums and weights, and
reduces everything it needs to know in one vector.
"""

import math
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from concertina_api.batch import accumulation, slots_of
from concertina_api.errors import InvalidJob, TrainingFailed
from concertina_api.v1alpha1 import GradientSync, Training
from concertina_trainer.loop.forward import on_device, seed_forward
from concertina_trainer.loop.pacing import Geometry
from concertina_trainer.loop.reduction import StepResult, Sums
from concertina_trainer.loop.world import World
from concertina_trainer.rounds.control import Flags
from concertina_trainer.rounds.transport import is_broken
from concertina_trainer.rounds.waiting import CLOSING_SECONDS
from concertina_trainer.schedule.order import seed_of
from concertina_trainer.schedule.spikes import Losses, skipped
from concertina_trainer.sharding.restore import settle
from concertina_trainer.task import Loss


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
        self._sums = Sums(world.device)
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
        else:
            # The same collectives as the others, a gradient of zero, nothing counted.
            torch.autograd.backward(loss.total * 0.0)
        self._sums.add(loss, real=self._real)
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
        reduced = self._sums.reduce(
            self._world,
            next_batch=self._next_batch,
            started=self._start,
            slots=self.slots,
            tail_seconds=self._tail_seconds,
        )
        reduced_at = self.last_sign = time.perf_counter()
        # FSDP averages over ranks: what is in .grad is the sum of all totals, divided by W.
        scale = world_size / reduced.weight if reduced.weight else math.nan
        square_norm = reduced.shares * scale**2
        mean_loss = reduced.mean(reduced.loss)
        finite = all(
            map(math.isfinite, (reduced.weighted_squares, square_norm, reduced.loss, scale))
        )
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
                reduced.presence, live.groups, num_micro_batches=self.geometry.num_micro_batches
            )
        else:
            self._world.buffers.discard()
        live.optimizer.zero_grad(set_to_none=True)
        now = time.perf_counter()
        self.seconds, self.tail_seconds = now - self._start, now - reduced_at
        self.result = StepResult(
            loss=mean_loss,
            metrics={name: reduced.mean(value) for name, value in reduced.metrics.items()},
            num_micro_batches=round(reduced.counted),
            weighted_squares=reduced.weighted_squares,
            square_norm=square_norm,
            weight=reduced.weight,
            batch=round(reduced.batch),
            finite=finite,
            skipped=why_not,
            micro_batch_seconds=reduced.slot_seconds / world_size,
            worker_seconds=reduced.slot_seconds * self.slots + reduced.tail_seconds,
            waits=reduced.waits,
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

    def _synchronize(self, *, last: bool) -> None:
        if self._training.gradient_sync is GradientSync.LAST_MICRO_BATCH:
            model = self.model
            if not isinstance(model, FSDPModule):
                raise InvalidJob("gradientSync LastMicroBatch needs fully_shard on the root")
            model.set_requires_gradient_sync(last)

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
        # Nothing may be under way when the groups are ended, as others may have done already.
        self._world.control.collect(grace_seconds=CLOSING_SECONDS)
        self._world.probe.take()
        self._world.buffers.discard()
        settle(self.model)
        self._world.live.optimizer.zero_grad(set_to_none=True)


def rows_of(gradient: torch.Tensor) -> torch.Tensor:
    """The local rows of a sharded gradient."""
    local: torch.Tensor = getattr(gradient, "_local_tensor", gradient)
    return local
