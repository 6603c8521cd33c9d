"""Decides which steps are skipped: a loss or gradient that is not finite, or a loss that spikes.

A spike is a loss many standard deviations above its running mean. PaLM (Chowdhery et al. 2022,
section 5.1) met spikes at irregular times and went on from an earlier checkpoint without the
batches around them; OLMo's trainer skips a single step that lies 6 deviations from the mean of the
last 128 (olmo_core.optim.SkipStepOptimizer). Both are done here: skip, and roll back when skipping
does not help. Mean and deviation are exponentially weighted, which takes three numbers instead of
128, in West's form (1979), which subtracts no large squares from each other.

Called by the step, on all ranks alike: the loss is the reduced one. Pure: no I/O, no clock.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

HORIZON_STEPS: Final = 128
"""Steps over which mean and deviation are taken, as OLMo does."""
FEWEST_STEPS: Final = HORIZON_STEPS // 2
"""Losses that must be known before one is called a spike."""
_SMALLEST_DEVIATION: Final = 1e-6
"""Of the mean: differences below are those of floating-point sums."""


class Skipped(StrEnum):
    """Why a step changed no parameter."""

    NOT_FINITE = "NotFinite"
    SPIKE = "Spike"


WHY: Final[Mapping[Skipped, str]] = {
    Skipped.NOT_FINITE: "its loss or gradient is not finite",
    Skipped.SPIKE: "its loss spikes",
}
"""The same for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Running mean and variance of the losses of steps that were not skipped."""

    weight: float = 0.0
    """Sum of the weights; one loss counts 1 when it is new, and a little less with every step."""
    mean: float = 0.0
    squares: float = 0.0
    """Weighted sum of squares of the differences from the mean."""
    seen: int = 0

    def after(self, loss: float) -> Self:
        """With one more loss, which is finite."""
        kept = 1.0 - 1.0 / HORIZON_STEPS
        weight = kept * self.weight + 1.0
        difference = loss - self.mean
        mean = self.mean + difference / weight
        squares = kept * self.squares + difference * (loss - mean)
        if not math.isfinite(squares):  # losses near the largest number: begin anew
            return type(self)()
        return type(self)(
            weight=weight, mean=mean, squares=squares, seen=min(self.seen + 1, FEWEST_STEPS)
        )

    @property
    def deviation(self) -> float:
        """Standard deviation of the losses."""
        return math.sqrt(max(self.squares, 0.0) / self.weight) if self.weight else 0.0

    def is_spike(self, loss: float, *, deviations: float) -> bool:
        """Whether a finite loss lies that many standard deviations above the mean."""
        if self.seen < FEWEST_STEPS:
            return False
        unit = max(self.deviation, _SMALLEST_DEVIATION * abs(self.mean))
        return loss - self.mean > deviations * unit

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "weight": self.weight,
            "mean": self.mean,
            "squares": self.squares,
            "seen": self.seen,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The counterpart of `to_json`; raises KeyError, TypeError or ValueError for what is none."""
        found = cls(
            weight=float(values["weight"]),
            mean=float(values["mean"]),
            squares=float(values["squares"]),
            seen=int(values["seen"]),
        )
        if not all(map(math.isfinite, (found.weight, found.mean, found.squares))):
            raise ValueError(f"losses are not finite: {found}")
        if found.weight < 0 or found.squares < 0 or found.seen < 0:
            raise ValueError(f"losses are negative sums: {found}")
        return found


def skipped(
    loss: float, *, finite: bool, before: Losses, deviations: float | None
) -> Skipped | None:
    """Why the step with this loss is skipped; None when it is not.

    `finite`: loss, gradient and weight of the step are; `deviations` None: no loss is a spike.
    """
    if not finite:
        return Skipped.NOT_FINITE
    if deviations is not None and before.is_spike(loss, deviations=deviations):
        return Skipped.SPIKE
    return None
