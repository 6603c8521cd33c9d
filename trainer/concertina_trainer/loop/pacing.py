"""Which samples the next step takes, at which learning rate, and when training is over."""

from dataclasses import dataclass

from concertina_api.batch import last_batch, num_micro_batches, slots_of
from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.loop.progress import Progress
from concertina_trainer.schedule.learning_rate import learning_rate
from concertina_trainer.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Which samples a step consumes and how they are cut."""

    first_sample: int
    num_micro_batches: int
    micro_batch_size: int
    seed: int

    @property
    def global_batch_size(self) -> int:
        """Samples of the step."""
        return self.num_micro_batches * self.micro_batch_size


class Pacing:
    """Functions of the progress alone, so all ranks agree on them without a word."""

    def __init__(self, spec: JobSpec, task: Task, *, total_samples: int) -> None:
        self._spec = spec
        self._task = task
        self._total_samples = total_samples
        self._micro_batch_size = spec.batch.micro_batch_size

    def is_finished(self, progress: Progress) -> bool:
        """All samples are trained, or the task has asked to stop."""
        return progress.stopped or progress.samples >= self._total_samples

    def geometry(self, progress: Progress) -> Geometry:
        """The next step's samples; the last step of a run may be smaller than the batch."""
        return Geometry(
            first_sample=progress.samples,
            num_micro_batches=num_micro_batches(self.batch(progress), self._micro_batch_size),
            micro_batch_size=self._micro_batch_size,
            seed=self._spec.seed,
        )

    def batch(self, progress: Progress) -> int:
        """Samples of the next step."""
        left = max(self._total_samples - progress.samples, 1)
        return min(progress.global_batch_size, last_batch(left, self._micro_batch_size))

    def learning_rate(self, progress: Progress) -> float:
        """The task's own, or that of the manifest's schedule and law."""
        batch = self.batch(progress)
        own = self._task.learning_rate(progress.samples, batch)
        if own is not None:
            return own
        return learning_rate(
            self._spec.learning_rate,
            samples=progress.samples,
            batch=batch,
            total_samples=self._total_samples,
            initial_batch=self._spec.batch.initial,
        )

    def first_samples(self, samples: int, batch: int, rank: int, world_size: int) -> list[int]:
        """First sample of each micro-batch that a rank runs in the step at `samples` and the next."""
        m, firsts = self._micro_batch_size, []
        for start in (samples, samples + batch):
            count = min(batch, last_batch(max(self._total_samples - start, 0), m)) // m
            slots = slots_of(count, world_size=world_size, rank=rank) if count else ()
            firsts += [start + slot.number * m for slot in slots]
        return list(dict.fromkeys(firsts))
