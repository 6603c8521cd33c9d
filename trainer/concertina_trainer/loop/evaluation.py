"""Evaluates held-out data between two steps, in pieces that a resize may come between.

Every rank runs the same number of forward passes, the spare ones with weight zero, and sums are
taken over all ranks, so the result does not depend on the world size. After each piece the
session looks whether a round waits; where the evaluation stopped travels with the progress.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from concertina_api.batch import accumulation
from concertina_api.errors import InvalidJob
from concertina_trainer.loop.forward import on_device
from concertina_trainer.loop.progress import PartialEvaluation, Progress
from concertina_trainer.rounds.transport import Groups
from concertina_trainer.rounds.waiting import finish
from concertina_trainer.schedule.order import seed_of
from concertina_trainer.sharding.restore import settle
from concertina_trainer.task import MapDataset, Task

PIECE_SECONDS = 0.5
"""Aim for the length of a piece, by the agreed time of a micro-batch in training."""


class Evaluation:
    """The evaluation sets of a task."""

    def __init__(
        self,
        task: Task,
        *,
        micro_batch_size: int,
        every_samples: int | None,
        device: torch.device,
    ) -> None:
        """`every_samples`: between two evaluations; None for one at the end."""
        self._task = task
        self._every_samples = every_samples
        self._sets: Mapping[str, MapDataset] = task.evaluation()
        for name, data in self._sets.items():
            if len(data) == 0:
                raise InvalidJob(f"evaluation set {name} is empty")
        self._micro_batch_size = micro_batch_size
        self._device = device

    def is_due(self, progress: Progress, *, finished: bool) -> bool:
        """Whether a piece should be run now: one is under way, or an evaluation should begin."""
        if not self._sets:
            return False
        if progress.evaluation is not None:
            return True
        if finished:
            return progress.evaluated_samples != progress.samples
        if self._every_samples is None:
            return False
        done, seen = progress.evaluated_samples, progress.samples
        return done // self._every_samples < seen // self._every_samples

    def advance(self, model: nn.Module, groups: Groups, progress: Progress) -> Progress:
        """Run one piece. The evaluation is complete when the result has none under way."""
        names = list(self._sets)
        partial = progress.evaluation or PartialEvaluation(
            name=names[0], next_micro_batch=0, totals={}
        )
        data = self._sets[partial.name]
        end = accumulation(len(data), self._micro_batch_size)
        stop = min(end, partial.next_micro_batch + self._piece(progress, groups.world_size))
        totals = self._totals(model, groups, data, partial.next_micro_batch, stop)
        summed = {name: partial.totals.get(name, 0.0) + value for name, value in totals.items()}
        if stop < end:
            return replace(
                progress, evaluation=replace(partial, next_micro_batch=stop, totals=summed)
            )
        loss = summed["loss"] / summed["weight"] if summed["weight"] else math.nan
        losses = {**progress.evaluation_losses, partial.name: loss}
        left = names[names.index(partial.name) + 1 :]
        following = PartialEvaluation(name=left[0], next_micro_batch=0, totals={}) if left else None
        return replace(
            progress,
            evaluation=following,
            evaluation_losses=losses,
            evaluated_samples=progress.evaluated_samples if left else progress.samples,
        )

    def _piece(self, progress: Progress, world_size: int) -> int:
        seconds = progress.micro_batch_seconds
        slots = max(1, int(PIECE_SECONDS / seconds)) if seconds > 0 else 8
        return slots * world_size

    @torch.no_grad()
    def _totals(
        self, model: nn.Module, groups: Groups, data: MapDataset, start: int, stop: int
    ) -> dict[str, float]:
        """Sums over micro-batches [start, stop) of one data set, over all ranks."""
        sums: dict[str, torch.Tensor] = {}
        model.eval()
        try:
            for slot in range(accumulation(stop - start, groups.world_size)):
                number = start + slot * groups.world_size + groups.rank
                weight = 1.0 if number < stop else 0.0
                batch = self._batch(data, min(number, stop - 1))
                torch.manual_seed(seed_of(0, number))
                loss = self._task.loss(model, batch)
                values: dict[str, Any] = {
                    "loss": loss.total,
                    "weight": loss.weight,
                    **loss.metrics,
                }
                for name, value in values.items():
                    counted = torch.as_tensor(value, dtype=torch.float64) * weight
                    sums[name] = sums.get(name, torch.zeros_like(counted)) + counted
        finally:
            model.train()
            settle(model)
        vector = torch.stack([sums[name].to(self._device) for name in sums])
        finish(dist.all_reduce(vector, async_op=True), groups)
        return dict(zip(sums, vector.tolist(), strict=True))

    def _batch(self, data: MapDataset, number: int) -> Any:
        first = number * self._micro_batch_size
        last = min(first + self._micro_batch_size, len(data))
        samples = [data[index] for index in range(first, last)]
        return on_device(self._task.collate(samples), self._device)
