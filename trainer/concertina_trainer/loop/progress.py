"""Where a run is: everything besides tensors that a resize carries and a checkpoint stores.

Equal on all ranks at every step boundary, and plain JSON when it travels. Pure.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import Any, Self

from concertina_trainer.schedule.controller import BatchController, BatchState
from concertina_trainer.schedule.spikes import Losses, Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialEvaluation:
    """An evaluation that a resize may interrupt between two micro-batches."""

    name: str
    next_micro_batch: int
    totals: Mapping[str, float]
    """Sums over the micro-batches so far: `loss`, `weight` and the task's metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress after a step."""

    step: int = 0
    samples: int = 0
    global_batch_size: int
    """Batch of the next step, as rank 0 decided it, before the last step cuts it."""
    controller: BatchState
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    micro_batch_seconds: float = 0.0
    """Mean time of a micro-batch in the last step, agreed by all ranks; 0 before the first."""
    evaluated_samples: int = -1
    """Samples at which the last complete evaluation was taken; -1 before the first."""
    evaluation_losses: Mapping[str, float]
    """Results of the data sets already done in the evaluation under way."""
    evaluation: PartialEvaluation | None = None
    stopped: bool = False
    """The task has asked to stop: the run counts as complete."""
    rollbacks: int = 0
    """Times that skipped steps led back to a snapshot."""
    useful_seconds: float = 0.0
    """Worker-seconds in the steps that led here, without those that were skipped; a return to an earlier
    state takes them back."""
    losses: Losses = field(default_factory=Losses)
    """Of the steps that were not skipped: what a spike is told from."""

    def after_step(
        self,
        samples: int,
        *,
        loss: float,
        skipped: Skipped | None,
        next_batch: int,
        controller: BatchState,
        micro_batch_seconds: float,
        worker_seconds: float,
        stop: bool,
    ) -> Self:
        """Where the run is when a step of that many samples is done, or was skipped."""
        return replace(
            self,
            step=self.step + 1,
            samples=self.samples + samples,
            global_batch_size=next_batch,
            controller=controller,
            skipped_steps=self.skipped_steps + (skipped is not None),
            skipped_in_a_row=0 if skipped is None else self.skipped_in_a_row + 1,
            losses=self.losses.after(loss) if skipped is None else self.losses,
            micro_batch_seconds=micro_batch_seconds,
            stopped=self.stopped or stop,
            useful_seconds=self.useful_seconds + (worker_seconds if skipped is None else 0.0),
        )

    def rolled_back(self, snapshot: Self) -> Self:
        """Where the run is when the tensors of `snapshot` are taken up in its place.

        Steps and samples go on: what was consumed since then is left out. So does the count of
        skipped steps, or a run that no snapshot helps would never end.
        """
        return replace(
            self,
            rollbacks=self.rollbacks + 1,
            useful_seconds=snapshot.useful_seconds,
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "step": self.step,
            "samples": self.samples,
            "globalBatchSize": self.global_batch_size,
            "controller": self.controller.to_json(),
            "skippedSteps": self.skipped_steps,
            "skippedInARow": self.skipped_in_a_row,
            "microBatchSeconds": self.micro_batch_seconds,
            "evaluatedSamples": self.evaluated_samples,
            "evaluationLosses": dict(self.evaluation_losses),
            "evaluation": asdict(self.evaluation) if self.evaluation else None,
            "stopped": self.stopped,
            "rollbacks": self.rollbacks,
            "usefulSeconds": self.useful_seconds,
            "losses": self.losses.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, controller: BatchController) -> Self:
        """The counterpart of `to_json`; raises KeyError or ValueError for what is not one."""
        try:
            return cls._read(values, controller)
        except (AttributeError, TypeError, ArithmeticError) as error:
            raise ValueError(f"no progress: {error}") from error

    @classmethod
    def _read(cls, values: Mapping[str, Any], controller: BatchController) -> Self:
        partial = values["evaluation"]
        # Checkpoints of earlier releases have no rollbacks, useful seconds and losses.
        useful_seconds = float(values.get("usefulSeconds", 0.0))
        if not (useful_seconds >= 0 and isfinite(useful_seconds)):
            raise ValueError(f"no progress: usefulSeconds {useful_seconds}")
        return cls(
            step=int(values["step"]),
            samples=int(values["samples"]),
            # A manifest with a lower maximum holds at once.
            global_batch_size=min(int(values["globalBatchSize"]), controller.policy.batch.max),
            controller=controller.restore(values["controller"]),
            skipped_steps=int(values["skippedSteps"]),
            skipped_in_a_row=int(values["skippedInARow"]),
            micro_batch_seconds=float(values["microBatchSeconds"]),
            evaluated_samples=int(values["evaluatedSamples"]),
            evaluation_losses=dict(values["evaluationLosses"]),
            evaluation=PartialEvaluation(**partial) if partial else None,
            stopped=bool(values["stopped"]),
            rollbacks=int(values.get("rollbacks", 0)),
            useful_seconds=useful_seconds,
            losses=Losses.from_json(values["losses"]) if "losses" in values else Losses(),
        )
