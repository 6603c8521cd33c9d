"""Makes the micro-batch that begins at a sample number: order, augmentation, collation.

Called by the loader, in the worker or in its loader processes. What comes out is a function of
(seed, sample number) alone, whoever asks and in whatever order.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from concertina_api.errors import TrainingFailed
from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.schedule.order import Shuffled, Stream, seed_of
from concertina_trainer.task import AnyDataset, AugmentedDataset, Task, check_dataset, load_task


class Order(Protocol):
    """Which sample of the data set a sample number is."""

    def index(self, sample: int) -> int:
        """Index in the data set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatches:
    """The micro-batches of a run, by the number of their first sample."""

    dataset: AnyDataset
    collate: Callable[[list[Any]], Any]
    order: Order
    seed: int
    micro_batch_size: int

    def load(self, first_sample: int) -> Any:
        """Samples [first_sample, first_sample + m), collated.

        Raises TrainingFailed that names the sample when the user's code fails.
        """
        with _generators_restored():
            samples = [
                self._sample(number)
                for number in range(first_sample, first_sample + self.micro_batch_size)
            ]
            try:
                return self.collate(samples)
            except Exception as error:
                raise TrainingFailed(
                    f"collate failed on samples {first_sample} to {first_sample + len(samples) - 1}"
                    f": {type(error).__name__}: {error}"
                ) from error

    def _sample(self, number: int) -> Any:
        index = self.order.index(number)
        seed = seed_of(self.seed, number, stream=Stream.AUGMENTATION)
        try:
            if isinstance(self.dataset, AugmentedDataset):
                return self.dataset.item(index, torch.Generator().manual_seed(seed))
            # Stock augmentation draws from the global generators: give it a sample's own as well.
            _seed_generators(seed)
            return self.dataset[index]
        except Exception as error:
            raise TrainingFailed(
                f"sample {number} (index {index} of the data set) could not be loaded:"
                f" {type(error).__name__}: {error}"
            ) from error


def training_batches(spec: JobSpec, task: Task) -> MicroBatches:
    """The training data of a task; raises InvalidJob when the loop cannot take it."""
    dataset = check_dataset(task, spec)
    return MicroBatches(
        dataset=dataset,
        collate=task.collate,
        order=Shuffled(num_samples=len(dataset), seed=spec.seed),
        seed=spec.seed,
        micro_batch_size=spec.batch.micro_batch_size,
    )


def recreated_batches(spec: JobSpec) -> MicroBatches:
    """The same, from the manifest alone: how a loader process comes by its data."""
    return training_batches(spec, load_task(spec))


def _seed_generators(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def _generators_restored() -> Iterator[None]:
    """Leave the caller's random state as it was: loading inline must not change dropout."""
    torch_state = torch.default_generator.get_state()
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(torch_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
