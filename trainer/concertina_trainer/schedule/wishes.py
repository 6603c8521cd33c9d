"""What each rule wants: the batch-size rules of the manifest, behind one Protocol.

Pure: no I/O, no clock. `rules.decide` asks a rule for its wish; hold, threshold, grid and cap are
not here. NormTest and NoiseScale are one function under two knobs.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from concertina_api.batch import grid, last_batch
from concertina_api.v1alpha1 import MAX_BATCH, Batch, RampStage, Rule, RuleName
from concertina_trainer.schedule.estimator import Smoothed

DEFAULT_ETA = 0.8
DEFAULT_FRACTION = 1 / DEFAULT_ETA**2 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The batch that a rule wants, on no grid, and the sentence that says why."""

    samples: float | None
    """None: no opinion. Infinity: as large as possible."""
    evidence: str


class BatchRule(Protocol):
    """A batch-size rule."""

    measures: ClassVar[bool]
    """Whether it goes by the gradient's noise."""

    @property
    def name(self) -> RuleName:
        """Its name in the manifest."""

    def wish(self, smoothed: Smoothed, *, samples: int) -> Wish:
        """The batch that it wants after `samples` samples."""

    def ratio(self, smoothed: Smoothed, *, batch: int) -> float | None:
        """What it measures, as the wanted batch over `batch`; None: nothing, or nothing yet."""

    def sizes(self, wish: float, *, batch: Batch) -> Iterable[int]:
        """Sizes that the job may take under this rule, rising, within its `batch` bounds."""


def rule_of(rule: Rule) -> BatchRule:
    """The rule that a manifest names, with defaults for the knobs it leaves out."""
    match rule.name:
        case RuleName.NORM_TEST:
            return NormTest(rule.eta or DEFAULT_ETA)
        case RuleName.NOISE_SCALE:
            return NoiseScale(rule.fraction or DEFAULT_FRACTION)
        case RuleName.RAMP:
            return Ramp(rule.stages)
        case RuleName.FIXED:
            return Fixed()


@dataclass(frozen=True, slots=True)
class NoiseScale:
    """Wants a fraction of the gradient noise scale (McCandlish et al. 2018, arXiv 1812.06162)."""

    measures: ClassVar[bool] = True

    fraction: float = DEFAULT_FRACTION

    @property
    def name(self) -> RuleName:
        """Its name in the manifest."""
        return RuleName.NOISE_SCALE

    def wish(self, smoothed: Smoothed, *, samples: int) -> Wish:  # noqa: ARG002 - see BatchRule
        """The fraction of the noise scale."""
        return _share_of_noise_scale(smoothed, self.fraction, f"{self.fraction:.3g}")

    def ratio(self, smoothed: Smoothed, *, batch: int) -> float | None:
        """The fraction of the noise scale over the batch."""
        return _ratio(smoothed, self.fraction, batch=batch)

    def sizes(self, wish: float, *, batch: Batch) -> Iterable[int]:  # noqa: ARG002 - see BatchRule
        """The job's doubling grid."""
        return grid(batch.initial, batch.max)


@dataclass(frozen=True, slots=True)
class NormTest:
    """Wants the batch at which gradient variance / batch is eta^2 |g|^2.

    The test of Byrd et al. 2012, for sharded training Lau et al. (arXiv 2412.21124). With
    E|g|^2 = |G|^2 + tr(Sigma) / b it fails exactly below (1 / eta^2 - 1) tr(Sigma) / |G|^2, so it is
    NoiseScale by another knob.
    """

    measures: ClassVar[bool] = True

    eta: float = DEFAULT_ETA

    @property
    def name(self) -> RuleName:
        """Its name in the manifest."""
        return RuleName.NORM_TEST

    @property
    def fraction(self) -> float:
        """The same rule as a fraction of the noise scale."""
        return 1 / self.eta**2 - 1

    def wish(self, smoothed: Smoothed, *, samples: int) -> Wish:  # noqa: ARG002 - see BatchRule
        """The smallest batch that passes the test."""
        spelling = f"{self.fraction:.3g} (eta {self.eta:g})"
        return _share_of_noise_scale(smoothed, self.fraction, spelling)

    def ratio(self, smoothed: Smoothed, *, batch: int) -> float | None:
        """The smallest batch that passes the test over the batch."""
        return _ratio(smoothed, self.fraction, batch=batch)

    def sizes(self, wish: float, *, batch: Batch) -> Iterable[int]:  # noqa: ARG002 - see BatchRule
        """The job's doubling grid."""
        return grid(batch.initial, batch.max)


@dataclass(frozen=True, slots=True)
class Ramp:
    """Wants the batch of the stage that the run is in."""

    measures: ClassVar[bool] = False
    stages: tuple[RampStage, ...]

    @property
    def name(self) -> RuleName:
        """Its name in the manifest."""
        return RuleName.RAMP

    def wish(self, smoothed: Smoothed, *, samples: int) -> Wish:  # noqa: ARG002 - see BatchRule
        """The batch of the newest stage that has begun."""
        begun = [stage for stage in self.stages if stage.samples <= samples]
        if not begun:
            first = self.stages[0].samples
            return Wish(samples=None, evidence=f"first stage begins at {first} samples")
        stage = begun[-1]
        return Wish(
            samples=stage.batch,
            evidence=f"stage from {stage.samples} samples on wants {stage.batch} samples",
        )

    def ratio(self, smoothed: Smoothed, *, batch: int) -> None:
        """Nothing: it goes by samples alone."""

    def sizes(self, wish: float, *, batch: Batch) -> Iterable[int]:
        """Exactly what the stage says: any multiple of m up to the maximum."""
        return (min(batch.max, last_batch(math.ceil(wish), batch.micro_batch_size)),)


@dataclass(frozen=True, slots=True)
class Fixed:
    """Wants the batch that runs."""

    measures: ClassVar[bool] = False

    @property
    def name(self) -> RuleName:
        """Its name in the manifest."""
        return RuleName.FIXED

    def wish(self, smoothed: Smoothed, *, samples: int) -> Wish:  # noqa: ARG002 - see BatchRule
        """Nothing."""
        return Wish(samples=None, evidence="the batch is fixed")

    def ratio(self, smoothed: Smoothed, *, batch: int) -> None:
        """Nothing."""

    def sizes(self, wish: float, *, batch: Batch) -> Iterable[int]:  # noqa: ARG002 - see BatchRule
        """None."""
        return ()


def _share_of_noise_scale(smoothed: Smoothed, fraction: float, spelling: str) -> Wish:
    scale = smoothed.noise_scale
    if scale is None:
        return Wish(samples=None, evidence="no estimate: no step had two micro-batches")
    if math.isinf(scale):
        return Wish(samples=scale, evidence="no signal left under the gradient noise")
    wanted = fraction * scale
    return Wish(
        samples=wanted,
        evidence=f"noise scale {scale:.3g} x {spelling} = {wanted:.3g} samples wanted",
    )


def _ratio(smoothed: Smoothed, fraction: float, *, batch: int) -> float | None:
    scale = smoothed.noise_scale
    return None if scale is None else min(fraction * scale, MAX_BATCH) / batch
