"""What the metrics show of a step besides progress: gradient, rule, rate, age of the estimate.

The reporter calls it. Every worker keeps it, so that whoever leads next goes on; only the leader
tells it. Pure: all of it is on the host already, as numbers that decided the step.
"""

import math

from concertina_api.batch import accumulation
from concertina_api.errors import InvalidJob
from concertina_trainer.agent.mailbox import Measured
from concertina_trainer.loop.progress import Progress
from concertina_trainer.loop.reduction import StepResult
from concertina_trainer.schedule.controller import BatchController, Observation
from concertina_trainer.schedule.rules import Standing
from concertina_trainer.task import Task


class Measuring:
    """The measurements of one worker."""

    def __init__(self, controller: BatchController) -> None:
        self._controller = controller
        self._estimated_samples: float = math.inf
        """Samples at the newest estimate of the gradient's noise; before the first, at the start."""

    def entered(self, progress: Progress) -> None:
        """A round begins: an estimate of a history that was rolled back does not count."""
        self._estimated_samples = min(self._estimated_samples, progress.samples)

    def stepped(self, observation: Observation) -> None:
        """A step is done."""
        if observation.estimate is not None:
            self._estimated_samples = observation.state.samples

    def standing(self, progress: Progress) -> Standing:
        """Where the rule stands."""
        return self._controller.standing(progress.controller)

    def measured(
        self,
        result: StepResult,
        progress: Progress,
        *,
        learning_rate: float,
        num_micro_batches: int,
        world_size: int,
    ) -> Measured:
        """What the step measured that led to `progress`."""
        standing = self.standing(progress)
        return Measured(
            learning_rate=learning_rate,
            accumulation_micro_batches=accumulation(num_micro_batches, world_size),
            gradient_norm=math.sqrt(max(result.square_norm, 0.0)) if result.finite else None,
            gradient_variance=standing.gradient_variance,
            noise_estimate_age_samples=self._age(progress),
            rule_ratio=standing.ratio,
            rule_threshold=standing.threshold,
            global_batch_requested_samples=progress.controller.requested,
        )

    def _age(self, progress: Progress) -> int | None:
        """Samples since the newest estimate; None where the rule needs none."""
        if not self._controller.policy.rule.measures:
            return None
        return progress.samples - int(self._estimated_samples)


def tokens_per_sample(task: Task) -> int | None:
    """What the task tells, if it does. Raises InvalidJob when that is no number of tokens."""
    tokens: object = task.tokens_per_sample()
    if tokens is None:
        return None
    if not isinstance(tokens, int) or tokens < 1:
        raise InvalidJob(f"tokens_per_sample() must be a positive integer or None, got {tokens!r}")
    return tokens
