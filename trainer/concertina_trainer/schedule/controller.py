"""Measures, applies the rule, asks: the batch controller, once per step on every worker.

Pure: no I/O, no clock, no torch. Every worker feeds it the same all-reduced statistics and so comes
to the same decision; its state is small, frozen and JSON, and travels in resizes and checkpoints.
The training loop calls `observe` and acts on a decision some steps later, alike on all workers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from concertina_api.v1alpha1 import Batch, BatchSizeRequest
from concertina_trainer.schedule.estimator import (
    Estimate,
    Smoothed,
    StepStatistics,
    estimate,
)
from concertina_trainer.schedule.rules import (
    Decision,
    Policy,
    Standing,
    decide,
    policy_of,
    standing,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """Where one rule stands: its averages and when it decides next."""

    smoothed: Smoothed
    next_decision_samples: int | None
    """None: never again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """All that the controller remembers between two steps."""

    batch: int
    """Effective global batch in samples."""
    requested: int
    """Global batch that the rule's newest decision asked for, at most the maximum."""
    samples: int = 0
    """Samples consumed after the newest step observed."""
    sequence: int = 0
    """Number of the newest request; grows with every growth."""
    track: Track
    shadows: tuple[Track, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The state as a JSON object."""
        return {
            "batch": self.batch,
            "requested": self.requested,
            "samples": self.samples,
            "sequence": self.sequence,
            "track": _track_to_json(self.track),
            "shadows": [_track_to_json(track) for track in self.shadows],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one step led to."""

    state: BatchState
    estimate: Estimate | None = None
    """What the step said of the gradient; None when it had one micro-batch, or was skipped."""
    decision: Decision | None = None
    """None between two decisions."""
    shadows: tuple[Decision, ...] = ()
    """What rules in the shadow would have done from the batch that runs; never acted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchController:
    """One rule that acts and any number that only watch."""

    policy: Policy
    shadow_policies: tuple[Policy, ...] = ()

    @staticmethod
    def of(batch: Batch, *, total_samples: int, warmup_samples: int) -> "BatchController":
        """The controller of a manifest's batch, with defaults for a run of `total_samples`."""
        policy, *shadows = (
            policy_of(rule, batch=batch, total_samples=total_samples, warmup_samples=warmup_samples)
            for rule in (batch.rule, *batch.shadow_rules)
        )
        return BatchController(policy=policy, shadow_policies=tuple(shadows))

    def start(self) -> BatchState:
        """The state before the first step."""
        return BatchState(
            batch=self.policy.batch.initial,
            requested=self.policy.batch.initial,
            track=_new_track(self.policy),
            shadows=tuple(_new_track(policy) for policy in self.shadow_policies),
        )

    def restore(self, document: Mapping[str, Any]) -> BatchState:
        """The state that `to_json` wrote, under a manifest that may have changed since.

        A new maximum or initial batch bounds the batch at once. Shadow rules start anew when their
        number has changed.
        """
        bounds = self.policy.batch
        shadows = tuple(_track_from_json(track) for track in document["shadows"])
        if len(shadows) != len(self.shadow_policies):
            shadows = self.start().shadows
        batch = min(max(document["batch"], bounds.initial), bounds.max)
        return BatchState(
            batch=batch,
            requested=min(document.get("requested", batch), bounds.max),
            samples=document["samples"],
            sequence=document["sequence"],
            track=_track_from_json(document["track"]),
            shadows=shadows,
        )

    def observe(
        self, state: BatchState, step: StepStatistics | None, *, samples: int
    ) -> Observation:
        """The state after a step, and the decisions that are due.

        `step` is None for a step that was skipped because its loss or gradient was not finite: it
        leaves the averages alone, and a decision that is due waits for the next good step.
        `samples` counts all samples consumed, those of this step included.
        """
        new = None if step is None else estimate(step)
        track, decision = _advance(state.track, self.policy, state, step, new, samples)
        watched = [
            _advance(shadow, policy, state, step, new, samples)
            for shadow, policy in zip(state.shadows, self.shadow_policies, strict=True)
        ]
        grown = decision is not None and decision.grow
        after = replace(
            state,
            batch=decision.effective if decision else state.batch,
            requested=(
                min(decision.requested, self.policy.batch.max) if decision else state.requested
            ),
            samples=samples,
            sequence=state.sequence + grown,
            track=track,
            shadows=tuple(shadow for shadow, _ in watched),
        )
        shadow_decisions = tuple(shadow for _, shadow in watched if shadow is not None)
        return Observation(state=after, estimate=new, decision=decision, shadows=shadow_decisions)

    def standing(self, state: BatchState) -> Standing:
        """Where the rule that acts stands."""
        return standing(state.track.smoothed, batch=state.batch, policy=self.policy)


def renumbered(state: BatchState, *, accepted: int) -> BatchState:
    """The state of an earlier moment, whose batch is news to who has `accepted` later requests.

    At the very start nothing is accepted, and nothing needs to be asked.
    """
    if not accepted or state.sequence > accepted:
        return state
    return replace(state, sequence=accepted + 1)


def request_again(state: BatchState) -> BatchSizeRequest:
    """The newest request, as far as the state remembers it."""
    return BatchSizeRequest(
        sequence=state.sequence,
        requested=state.requested,
        effective=state.batch,
        reason=f"{state.batch} samples, decided before this round",
    )


def request(state: BatchState, decision: Decision) -> BatchSizeRequest:
    """The request for workers that follows from a decision."""
    return BatchSizeRequest(
        sequence=state.sequence,
        requested=state.requested,
        effective=decision.effective,
        reason=decision.reason,
        noise_scale=decision.noise_scale,
    )


def _new_track(policy: Policy) -> Track:
    return Track(
        smoothed=Smoothed(),
        next_decision_samples=policy.next_decision(after=-1),
    )


def _advance(
    track: Track,
    policy: Policy,
    state: BatchState,
    step: StepStatistics | None,
    new: Estimate | None,
    samples: int,
) -> tuple[Track, Decision | None]:
    """One rule's averages after the step, and its decision if one is due."""
    smoothed = track.smoothed
    if step is not None and new is not None:
        smoothed = smoothed.updated(
            new, samples=step.samples, horizon_samples=policy.horizon_samples
        )
    if state.samples < policy.hold_samples <= samples:
        smoothed = Smoothed()
    due = track.next_decision_samples
    if step is None or due is None or samples < due:
        return Track(smoothed=smoothed, next_decision_samples=due), None
    decision = decide(smoothed, samples=samples, batch=state.batch, policy=policy)
    following = policy.next_decision(after=samples)
    return Track(smoothed=smoothed, next_decision_samples=following), decision


def _track_to_json(track: Track) -> dict[str, Any]:
    return {
        "smoothed": track.smoothed.to_json(),
        "next_decision_samples": track.next_decision_samples,
    }


def _track_from_json(document: Mapping[str, Any]) -> Track:
    return Track(
        smoothed=Smoothed.from_json(document["smoothed"]),
        next_decision_samples=document["next_decision_samples"],
    )
