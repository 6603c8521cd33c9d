"""Decides whether the batch grows: what a rule wants, then hold, threshold, grid and cap.

Pure: no I/O, no clock. The batch controller calls `decide` at every decision, for the rule that
acts and for those that only watch. A rule says which batch it wants and why (wishes.py); all that
keeps growth sane is here once, for all rules. The batch never shrinks and never passes the maximum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import MAX_BATCH, Batch, Rule, RuleName
from concertina_trainer.schedule.estimator import Smoothed
from concertina_trainer.schedule.wishes import BatchRule, Wish, rule_of

HORIZON_FRACTION = 0.06
MIN_HORIZON_SAMPLES = 500
EVERY_FRACTION = 2 / 3


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A rule and the bounds within which it acts: everything about it that the job fixes."""

    rule: BatchRule
    batch: Batch
    """Bounds and unit of the batch; the rule named in it need not be this one."""
    horizon_samples: int
    """Smoothing horizon."""
    every_samples: int
    """Samples between two decisions, the first one interval after the hold."""
    moments: tuple[int, ...]
    """Samples at which the rule decides instead, if any: where the stages of a Ramp begin."""
    hold_samples: int
    """No growth before; statistics start anew here, because early gradients are much larger."""
    max_growth: float
    hysteresis: float

    def next_decision(self, *, after: int) -> int | None:
        """First moment later than `after` samples at which the rule decides; None: never again.

        Moments do not depend on the steps between, so a late step does not move later decisions.
        """
        if self.moments:
            return next((moment for moment in self.moments if moment > after), None)
        intervals = max(0, after - self.hold_samples) // self.every_samples
        return self.hold_samples + (intervals + 1) * self.every_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a rule stands between two decisions; told to people, never acted on."""

    gradient_variance: float | None
    """tr(Sigma) of one sample's gradient, smoothed; None before the first estimate."""
    noise_scale: float | None
    """As in a decision."""
    ratio: float | None
    """The wanted batch over the batch that runs; None for a rule that measures nothing."""
    threshold: float | None
    """At a decision the batch grows from this ratio on, but for hold and cap; None without one."""


def standing(smoothed: Smoothed, *, batch: int, policy: Policy) -> Standing:
    """How near a rule is to growing from `batch`."""
    scale = smoothed.noise_scale
    ratio = policy.rule.ratio(smoothed, batch=batch)
    return Standing(
        gradient_variance=None if scale is None else smoothed.gradient_variance / smoothed.weight,
        noise_scale=scale if scale is not None and math.isfinite(scale) else None,
        ratio=ratio,
        threshold=None if ratio is None else policy.hysteresis,
    )


def policy_of(rule: Rule, *, batch: Batch, total_samples: int, warmup_samples: int) -> Policy:
    """The policy of a manifest's rule, with defaults for a run of `total_samples`.

    A Ramp is the user's own schedule: it is followed at the step where a stage begins, without
    interval, growth cap or hysteresis, and held only when the manifest says so. Raises InvalidJob.
    """
    horizon = rule.horizon_samples or max(
        MIN_HORIZON_SAMPLES, round(HORIZON_FRACTION * total_samples)
    )
    ramp = rule.name is RuleName.RAMP
    if rule.max_growth < 2 and not ramp:
        raise InvalidJob(
            f"maxGrowth {rule.max_growth:g} is below 2: the batch grows on the grid initial * 2^k"
        )
    default_hold = 0 if ramp else warmup_samples
    hold = default_hold if rule.hold_samples is None else rule.hold_samples
    return Policy(
        rule=rule_of(rule),
        batch=batch,
        horizon_samples=horizon,
        every_samples=rule.every_samples or round(EVERY_FRACTION * horizon),
        moments=tuple(max(stage.samples, hold) for stage in rule.stages),
        hold_samples=hold,
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
    above = [size for size in policy.rule.sizes(wanted, batch=policy.batch) if size > batch]
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
    if effective == policy.batch.max and wish.samples > policy.batch.max:
        return f"{'grown to' if effective > batch else 'held at'} the maximum {policy.batch.max}"
    if passed and passed[-1] > effective:
        return f"growth capped at {policy.max_growth:g}x: grown to {effective}"
    if effective > batch:
        return f"grown to {effective}"
    if wish.samples > batch:
        return f"held below the threshold {policy.hysteresis * batch:.3g}"
    return "held"
