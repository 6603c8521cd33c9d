"""What is told of a run row by row: in its record, to the task, in the log.

The reporter (loop/reporting.py) of the leader calls it at each event. The task sees every row as
it is written, and may ask to stop by it.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from concertina_trainer.loop.live import Live
from concertina_trainer.loop.pacing import Geometry
from concertina_trainer.loop.progress import Progress
from concertina_trainer.loop.record import Record
from concertina_trainer.loop.reduction import StepResult
from concertina_trainer.schedule.controller import Observation
from concertina_trainer.schedule.rules import Decision
from concertina_trainer.schedule.spikes import WHY
from concertina_trainer.task import StopTraining, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """What a row of the record says besides the result."""

    geometry: Geometry
    learning_rate: float
    seconds: float
    data_seconds: float


class Rows:
    """The rows of one run; each method that writes some says whether the task asks to stop."""

    def __init__(self, record: Record, task: Task) -> None:
        self._record = record
        self._task = task

    def stepped(
        self,
        live: Live,
        progress: Progress,
        result: StepResult,
        facts: StepFacts,
        *,
        pause_seconds: float,
    ) -> bool:
        """A step is done that led to `progress`, after a pause if it was the first of its round."""
        row: dict[str, Any] = {
            "step": progress.step,
            "samples": progress.samples,
            "loss": result.loss,
            "global_batch_size": facts.geometry.global_batch_size,
            "num_micro_batches": facts.geometry.num_micro_batches,
            "world_size": live.groups.world_size,
            "round": live.round,
            "pause_seconds": round(pause_seconds, 5),
            "seconds": round(facts.seconds, 5),
            "data_seconds": round(facts.data_seconds, 5),
            "learning_rate": facts.learning_rate,
            "gradient_norm": math.sqrt(max(result.square_norm, 0.0)),
            "weight": result.weight,
        }
        if result.skipped is not None:
            row["skipped"] = result.skipped.value
        if result.metrics:
            row["metrics"] = dict(result.metrics)
        stop = self._write(row)
        if result.skipped is not None:
            log.warning("step %d skipped: %s", progress.step, WHY[result.skipped])
        return stop

    def decided(self, progress: Progress, observation: Observation) -> bool:
        """The batch rule, and those that run in its shadow, have looked at a step."""
        stop, decision = False, observation.decision
        if decision is not None:
            if decision.grow:
                log.info("step %d: %s", progress.step, decision.reason)
            stop |= self._write(_decision(progress, decision))
        for shadow in observation.shadows:
            stop |= self._write(_decision(progress, shadow) | {"shadow": True})
        return stop

    def evaluated(self, progress: Progress) -> bool:
        """An evaluation is complete."""
        losses = dict(progress.evaluation_losses)
        return self._write(
            {"evaluation": losses, "step": progress.step, "samples": progress.samples}
        )

    def roll_back(self, *, step: int, samples: int) -> int:
        """The rows after this state are no part of the run; returns how many there were."""
        return self._record.roll_back(step=step, samples=samples)

    def _write(self, row: Mapping[str, Any]) -> bool:
        wish = self._task.on_step(self._record.append(row))
        if isinstance(wish, StopTraining):
            log.info("the task stops training at step %d: %s", row["step"], wish.reason)
            return True
        return False


def _decision(progress: Progress, decision: Decision) -> dict[str, Any]:
    return {
        "decision": decision.to_json(),
        "step": progress.step,
        "samples": progress.samples,
    }
