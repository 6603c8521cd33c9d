"""Estimates gradient variance and signal from two sums of a step, and smooths them over samples.

Pure: no I/O, no clock, no torch. The batch controller calls it once per step. With micro-batch
gradients g_j of weight n_j, n = sum of n_j, w_j = n_j / n and g = sum of w_j g_j, the sum
R / n = sum of w_j |g_j|^2 exceeds |g|^2 by (N - 1) times the variance of g, whose N-fold is that of
one micro-batch. For equal weights this is the two-batch estimator of McCandlish et al. 2018
(arXiv 1812.06162, appendix A.1) with B_small = m and B_big = b. It is unbiased when a unit of weight
is an independent draw; with target tokens as weight it treats the tokens of a sample as such.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStatistics:
    """What one step measured: sums over all its real micro-batches, on all workers."""

    weighted_squares: float
    """R: sum over micro-batches of |gradient of the summed loss|^2 / weight."""
    square_norm: float
    """|g|^2 of the mean gradient, before clipping."""
    num_micro_batches: int
    """N, without zero-weight repeats."""
    samples: int
    """b of this step; the last step of a run may be smaller than the others."""
    weight: float
    """n: sum of the weights of the micro-batches (samples, or target tokens)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Two numbers about the gradient, neither of which depends on the batch."""

    gradient_variance: float
    """tr(Sigma) of one sample's gradient; may come out below zero by rounding."""
    square_norm: float
    """|G|^2 of the true gradient, unbiased; below zero when noise hides the signal."""


def estimate(step: StepStatistics) -> Estimate | None:
    """Unbiased tr(Sigma) per sample and |G|^2, or None for a step of one micro-batch.

    b (R / n - |g|^2) / (N - 1), and |g|^2 - tr(Sigma) / b. For equal weights these are m S and
    |g|^2 - S / N with S the sample variance of micro-batch gradients.
    """
    if step.num_micro_batches < 2:
        return None
    excess = step.weighted_squares / step.weight - step.square_norm
    variance_of_mean = excess / (step.num_micro_batches - 1)
    return Estimate(
        gradient_variance=step.samples * variance_of_mean,
        square_norm=step.square_norm - variance_of_mean,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothed:
    """Exponential averages of both numbers, kept apart: the ratio of averages, not the reverse.

    The raw |g|^2 is not averaged: it contains tr(Sigma) / b and would be stale after a growth.
    """

    gradient_variance: float = 0.0
    square_norm: float = 0.0
    weight: float = 0.0
    """Share of the averages that is filled; both are low by this factor, their ratio is not."""

    def updated(self, new: Estimate, *, samples: int, horizon_samples: float) -> "Smoothed":
        """The averages after a step of `samples`, which forgets exp(-samples / horizon)."""
        keep = math.exp(-samples / horizon_samples)
        return Smoothed(
            gradient_variance=keep * self.gradient_variance + (1 - keep) * new.gradient_variance,
            square_norm=keep * self.square_norm + (1 - keep) * new.square_norm,
            weight=keep * self.weight + (1 - keep),
        )

    @property
    def noise_scale(self) -> float | None:
        """tr(Sigma) / |G|^2 in samples; None before the first estimate.

        0 when samples do not differ, infinity when no signal is left under the noise.
        """
        if self.weight <= 0:
            return None
        if self.gradient_variance <= 0:
            return 0.0
        if self.square_norm <= 0:
            return math.inf
        return self.gradient_variance / self.square_norm

    def to_json(self) -> dict[str, float]:
        """The averages as a JSON object; floats survive exactly."""
        return {
            "gradient_variance": self.gradient_variance,
            "square_norm": self.square_norm,
            "weight": self.weight,
        }

    @staticmethod
    def from_json(document: Mapping[str, float]) -> "Smoothed":
        """The averages that `to_json` wrote."""
        return Smoothed(**document)
