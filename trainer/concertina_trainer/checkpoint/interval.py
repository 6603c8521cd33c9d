"""How often a checkpoint is worth what it costs, from measurements of the job itself.

Pure: no I/O, no clock. Called by loop/saving.py for `checkpoint.interval: Measured`. Too often
costs time in every interval, too seldom costs steps in every loss; the optimum needs the time that
training pays for one checkpoint and the mean time between losses.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

PRIOR_SECONDS = 86_400.0
"""Before the first loss a job counts as if it had one in a day."""
WINDOW = 8
"""Of so many newest losses the mean time is taken: a storm after calm weeks counts as one."""
FIRST_SECONDS = 60.0
"""Until the first checkpoint, which measures the cost."""
SHORTEST_SECONDS = 10.0
WRITING_SHARE = 0.5
"""Largest share of the time in which a checkpoint is being written."""

_STEP_SMOOTHING = 0.1
_COST_SMOOTHING = 0.5


def young(cost_seconds: float, mean_seconds: float) -> float:
    """Seconds of training between two checkpoints: Young 1974, first order in cost / mean."""
    return math.sqrt(2 * cost_seconds * mean_seconds)


def daly(cost_seconds: float, mean_seconds: float) -> float:
    """Seconds of training between two checkpoints: Daly 2006, the higher-order estimate.

    `mean_seconds`: mean time between losses. Where a checkpoint costs twice that time or more, one
    interval is as good as another, and the mean time itself is taken.
    """
    ratio = cost_seconds / (2 * mean_seconds)
    if ratio >= 1:
        return mean_seconds
    correction = 1 + math.sqrt(ratio) / 3 + ratio / 9
    return young(cost_seconds, mean_seconds) * correction - cost_seconds


def mean_seconds(marks: tuple[float, ...], training_seconds: float) -> float:
    """Mean time between losses since the first of the marks; see Costs.marks.

    Without a loss it is that of the prior, and of the job without any.
    """
    losses = len(marks) - 1
    if not losses:
        return PRIOR_SECONDS + training_seconds
    return max((training_seconds - marks[0]) / losses, SHORTEST_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What checkpoints cost the training of one worker, and how often they were needed."""

    seconds_per_slot: float | None = None
    """Of a micro-batch while nothing is written, smoothed."""
    slowdown_seconds: float = 0.0
    """What the steps took longer since the newest checkpoint was begun."""
    blocking_seconds: float = 0.0
    """How long the loop waited for the copy of that checkpoint."""
    cost_seconds: float | None = None
    """Of a checkpoint, both together, smoothed; None before the first one is durable."""
    training_seconds: float = 0.0
    marks: tuple[float, ...] = (0.0,)
    """Times in seconds of training: of the newest losses, after that of the one before them, or 0."""

    def after_step(self, seconds: float, *, slots: int, writing: bool) -> Self:
        """After a step of `slots` micro-batches; `writing`: while a checkpoint was written."""
        training = self.training_seconds + seconds
        usual = self.seconds_per_slot
        if not writing:
            found = seconds / max(slots, 1)
            smoothed = found if usual is None else usual + _STEP_SMOOTHING * (found - usual)
            return replace(self, training_seconds=training, seconds_per_slot=smoothed)
        longer = 0.0 if usual is None else seconds - usual * slots
        slowdown = self.slowdown_seconds + longer
        return replace(self, training_seconds=training, slowdown_seconds=slowdown)

    def begun(self, blocking_seconds: float) -> Self:
        """A checkpoint was copied, and its writing begins."""
        return replace(self, slowdown_seconds=0.0, blocking_seconds=blocking_seconds)

    def saved(self) -> Self:
        """That checkpoint is durable, or this worker's part of it."""
        found = self.blocking_seconds + max(0.0, self.slowdown_seconds)
        before = self.cost_seconds
        cost = found if before is None else before + _COST_SMOOTHING * (found - before)
        return replace(self, cost_seconds=cost)

    def lost(self) -> Self:
        """Workers were lost."""
        return replace(self, marks=(*self.marks, self.training_seconds)[-WINDOW - 1 :])


def chosen_seconds(costs: Costs, *, longest: float, writing_seconds: float) -> float:
    """Time between two checkpoints, at most `longest`.

    `writing_seconds`: from the copy of the newest one until it was durable; the storage is not kept
    busy for more than WRITING_SHARE of the time.
    """
    if costs.cost_seconds is None:
        return min(FIRST_SECONDS, longest)
    mean = mean_seconds(costs.marks, costs.training_seconds)
    least = max(SHORTEST_SECONDS, writing_seconds / WRITING_SHARE)
    return min(max(daly(costs.cost_seconds, mean), least), longest)
