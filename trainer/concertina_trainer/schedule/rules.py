"""Decides whether the batch grows: what a rule wants, then hold, threshold, grid and cap.

Pure: no I/O, no clock. The batch controller calls `decide` at every decision, for the rule that
acts and for those that only watch. A rule says which batch it wants and why; everything that keeps
growth sane is here once, for all rules. The batch never shrinks and never passes the maximum.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from concertina_api.batch import grid, last_batch
from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import MAX_BATCH, Batch, RampStage, Rule, RuleName
from concertina_trainer.schedule.estimator import Smoothed

DEFAULT_ETA = 0.8
DEFAULT_FRACTION = 1 / DEFAULT_ETA**2 - 1
HORIZON_FRACTION = 0.06
MIN_HORIZON_SAMPLES = 500
EVERY_FRACTION = 2 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The batch that a rule wants, on no grid, and the sentence that says why."""

    samples: float | None
    """None: no opinion. Infinity: as large as possible."""
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one rule decided at one moment, to grow or to hold."""

    rule: RuleName
    requested: int
    """Batch that the rule wants, in samples, on no grid and under no cap."""
    effective: int
    """Batch that runs from now on, in samples."""
    previous: int
    """Batch that ran until now."""
    reason: str
    """One sentence with the numbers."""
    noise_scale: float | None
    """In samples; None without an estimate or when no signal is left under the noise."""
    margin: float | None
    """How far the wish is from the nearest threshold that would change the decision.

    (wish - threshold) / the larger of both, so -1 to 1; None when no threshold is within reach.
    """

    @property
    def grow(self) -> bool:
        """Whether the batch changes."""
        return self.effective > self.previous

    def to_json(self) -> dict[str, object]:
        """The decision as the record of steps keeps it."""
        return {
            "rule": self.rule.value,
            "requested": self.requested,
            "effective": self.effective,
            "grow": self.grow,
            "reason": self.reason,
            "noise_scale": self.noise_scale,
            "margin": self.margin,
        }


class BatchRule(Protocol):
    """A batch-size rule."""

    @property
    def name(self) -> RuleName:
        """Its name in the manifest."""

    def wish(self, smoothed: Smoothed, *, samples: int) -> Wish:
        """The batch that it wants after `samples` samples."""

    def sizes(self, wish: float, *, policy: "Policy") -> Iterable[int]:
        """Batches that the job may run under this rule, rising; the last is the largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A rule and the bounds within which it acts: everything about it that the job fixes."""

    rule: BatchRule
    micro_batch_size: int
    initial: int
    max: int
    horizon_samples: int
    """Smoothing horizon."""
    every_samples: int
    """Samples between two decisions."""
    hold_samples: int
    """No growth before; statistics start anew here, because early gradients are much larger."""
    max_growth: float
    hysteresis: float


def policy_of(rule: Rule, *, batch: Batch, total_samples: int, warmup_samples: int) -> Policy:
    """The policy of a manifest's rule, with defaults for a run of `total_samples`.

    A Ramp is the user's own schedule: it is followed at the step where a stage begins, without
    smoothing, growth cap or hysteresis, and held only when the manifest says so. Raises InvalidJob.
    """
    horizon = rule.horizon_samples or max(
        MIN_HORIZON_SAMPLES, round(HORIZON_FRACTION * total_samples)
    )
    ramp = rule.name is RuleName.RAMP
    if rule.max_growth < 2 and not ramp:
        raise InvalidJob(
            f"maxGrowth {rule.max_growth:g} is below 2: the batch grows on the grid initial * 2^k"
        )
    hold = 0 if ramp else warmup_samples
    return Policy(
        rule=_rule_of(rule),
        micro_batch_size=batch.micro_batch_size,
        initial=batch.initial,
        max=batch.max,
        horizon_samples=horizon,
        every_samples=rule.every_samples or (1 if ramp else round(EVERY_FRACTION * horizon)),
        hold_samples=hold if rule.hold_samples is None else rule.hold_samples,
        max_growth=math.inf if ramp else rule.max_growth,
        hysteresis=1.0 if ramp else rule.hysteresis,
    )


def decide(smoothed: Smoothed, *, samples: int, batch: int, policy: Policy) -> Decision:
    """Whether the batch grows from `batch` after `samples` samples, and why.

    It takes the largest size within the growth cap such that the wish passes `hysteresis` times
    each size that is left behind. With the doubling grid and the cap 2: double, or hold.
    """
    wish = policy.rule.wish(smoothed, samples=samples)
    wanted = batch if wish.samples is None else wish.samples
    above = [size for size in policy.rule.sizes(wanted, policy=policy) if size > batch]
    thresholds = [policy.hysteresis * size for size in (batch, *above)]
    passed = [size for size, least in zip(above, thresholds, strict=False) if wanted >= least]
    within = [size for size in above if size <= policy.max_growth * batch]
    held = wish.samples is None or samples < policy.hold_samples
    effective = batch if held else max((size for size in passed if size in within), default=batch)
    outcome = _outcome(
        wish, samples=samples, batch=batch, effective=effective, passed=passed, policy=policy
    )
    scale = smoothed.noise_scale
    return Decision(
        rule=policy.rule.name,
        requested=max(1, math.ceil(min(wanted, MAX_BATCH))),
        effective=effective,
        previous=batch,
        reason=f"{wish.evidence}, now {batch}, {outcome}",
        noise_scale=scale if scale is not None and math.isfinite(scale) else None,
        margin=None if held else _margin(wanted, thresholds[: len(within)]),
    )


@dataclass(frozen=True, slots=True)
class NoiseScale:
    """Wants a fraction of the gradient noise scale (McCandlish et al. 2018, arXiv 1812.06162)."""

    fraction: float = DEFAULT_FRACTION

    @property
    def name(self) -> RuleName:
        """Its name in the manifest."""
        return RuleName.NOISE_SCALE

    def wish(self, smoothed: Smoothed, *, samples: int) -> Wish:  # noqa: ARG002 - see BatchRule
        """The fraction of the noise scale."""
        return _share_of_noise_scale(smoothed, self.fraction, f"{self.fraction:.3g}")

    def sizes(self, wish: float, *, policy: Policy) -> Iterable[int]:  # noqa: ARG002 - see BatchRule
        """The job's doubling grid."""
        return grid(policy.initial, policy.max)


@dataclass(frozen=True, slots=True)
class NormTest:
    """Wants the batch at which gradient variance / batch is eta^2 |g|^2.

    The test of Byrd et al. 2012, for sharded training Lau et al. (arXiv 2412.21124). With
    E|g|^2 = |G|^2 + tr(Sigma) / b it fails exactly below (1 / eta^2 - 1) tr(Sigma) / |G|^2, so it is
    NoiseScale by another knob.
    """

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

    def sizes(self, wish: float, *, policy: Policy) -> Iterable[int]:  # noqa: ARG002 - see BatchRule
        """The job's doubling grid."""
        return grid(policy.initial, policy.max)


@dataclass(frozen=True, slots=True)
class Ramp:
    """Wants the batch of the stage that the run is in."""

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

    def sizes(self, wish: float, *, policy: Policy) -> Iterable[int]:
        """Exactly what the stage says: any multiple of m up to the maximum."""
        return (min(policy.max, last_batch(math.ceil(wish), policy.micro_batch_size)),)


@dataclass(frozen=True, slots=True)
class Fixed:
    """Wants the batch that runs."""

    @property
    def name(self) -> RuleName:
        """Its name in the manifest."""
        return RuleName.FIXED

    def wish(self, smoothed: Smoothed, *, samples: int) -> Wish:  # noqa: ARG002 - see BatchRule
        """Nothing."""
        return Wish(samples=None, evidence="the batch is fixed")

    def sizes(self, wish: float, *, policy: Policy) -> Iterable[int]:  # noqa: ARG002 - see BatchRule
        """None."""
        return ()


def _rule_of(rule: Rule) -> BatchRule:
    match rule.name:
        case RuleName.NORM_TEST:
            return NormTest(rule.eta or DEFAULT_ETA)
        case RuleName.NOISE_SCALE:
            return NoiseScale(rule.fraction or DEFAULT_FRACTION)
        case RuleName.RAMP:
            return Ramp(rule.stages)
        case RuleName.FIXED:
            return Fixed()


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


def _margin(wanted: float, thresholds: list[float]) -> float | None:
    if not thresholds:
        return None
    if math.isinf(wanted):
        return 1.0
    distances = [(wanted - limit) / max(wanted, limit) for limit in thresholds]
    return min(distances, key=abs)


def _outcome(
    wish: Wish,
    *,
    samples: int,
    batch: int,
    effective: int,
    passed: Sequence[int],
    policy: Policy,
) -> str:
    """The end of the sentence: what was done with the wish, `passed` being what it is enough for."""
    if wish.samples is None:
        return "held"
    if samples < policy.hold_samples:
        return f"held until {policy.hold_samples} samples"
    if effective == policy.max and wish.samples > policy.max:
        return f"{'grown to' if effective > batch else 'held at'} the maximum {policy.max}"
    if passed and passed[-1] > effective:
        return f"growth capped at {policy.max_growth:g}x: grown to {effective}"
    if effective > batch:
        return f"grown to {effective}"
    if wish.samples > batch:
        return f"held below the threshold {policy.hysteresis * batch:.3g}"
    return "held"
