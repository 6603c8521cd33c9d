"""Makes the micro-batch that begins at a sample number: order, augmentation, collation.

Called by the loader, in the worker or in its loader processes. What comes out is a function of
(seed, sample number) alone, whoever asks and in whatever order. The global random generators are
left seeded for the data: the loop seeds torch's own again before each forward pass.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch

from concertina_api.errors import SampleFailed
from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.loading import check_dataset, load_task
from concertina_trainer.schedule.order import Shuffled, Stream, seed_of
from concertina_trainer.task import AnyDataset, AugmentedDataset, MapDataset, Task


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

        Raises SampleFailed when the user's code fails.
        """
        numbers = range(first_sample, first_sample + self.micro_batch_size)
        # Stock augmentation draws from the global generators: give them the micro-batch's own.
        _seed_generators(self._seed(first_sample))
        samples = list(self._samples(numbers))
        try:
            return self.collate(samples)
        except Exception as error:
            raise SampleFailed(
                f"collate failed on samples {numbers[0]} to {numbers[-1]}:"
                f" {type(error).__name__}: {error}",
                first_sample=first_sample,
                num_samples=len(numbers),
            ) from error

    def _samples(self, numbers: Iterable[int]) -> Iterator[Any]:
        draw = self._augmented if isinstance(self.dataset, AugmentedDataset) else self._plain
        for number in numbers:
            index = self.order.index(number)
            try:
                sample = draw(index, number)
            except Exception as error:
                raise SampleFailed(
                    f"sample {number} (index {index} of the data set) could not be loaded:"
                    f" {type(error).__name__}: {error}",
                    first_sample=number,
                ) from error
            yield sample

    def _plain(self, index: int, number: int) -> Any:
        del number
        return cast(MapDataset, self.dataset)[index]

    def _augmented(self, index: int, number: int) -> Any:
        generator = torch.Generator().manual_seed(self._seed(number))
        return cast(AugmentedDataset, self.dataset).item(index, generator)

    def _seed(self, number: int) -> int:
        return seed_of(self.seed, number, stream=Stream.AUGMENTATION)


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
