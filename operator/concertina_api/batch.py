"""Batch arithmetic: the one definition that operator and trainer share.

Pure: no I/O, no clock. `m` is the micro-batch size in samples, `N` the number of micro-batches
of a step, `b = m N` the global batch, `W` the world size. The identity printed at every start is
`b = m x N`, `accumulation = ceil(N / W)`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from concertina_api.errors import InvalidJob


def num_micro_batches(global_batch_size: int, micro_batch_size: int) -> int:
    """N = b / m. Raises InvalidJob when m does not divide b: a batch is never floored."""
    if micro_batch_size < 1:
        raise InvalidJob(f"microBatchSize {micro_batch_size} is below 1")
    if global_batch_size < micro_batch_size or global_batch_size % micro_batch_size:
        raise InvalidJob(
            f"batch {global_batch_size} is not a multiple of microBatchSize {micro_batch_size}"
        )
    return global_batch_size // micro_batch_size


def accumulation(num_micro_batches: int, world_size: int) -> int:
    """Micro-batches that one worker runs in a step: ceil(N / W)."""
    return -(-num_micro_batches // world_size)


class Slot(NamedTuple):
    """One forward and backward pass of a worker in a step."""

    number: int
    """Which of the step's N micro-batches runs."""
    real: bool
    """False for a repeat, which counts with weight zero and keeps collectives in step."""


def slots_of(num_micro_batches: int, *, world_size: int, rank: int) -> tuple[Slot, ...]:
    """What a worker runs in a step: micro-batches rank, rank + W, ... below N, then repeats.

    All workers have `accumulation(N, W)` slots. A repeat is the worker's latest real micro-batch,
    which is still at hand; a worker without any repeats another's.
    """
    numbers = range(rank, num_micro_batches, world_size)
    spare = accumulation(num_micro_batches, world_size) - len(numbers)
    again = numbers[-1] if numbers else rank % num_micro_batches
    return (*(Slot(number, real=True) for number in numbers), *[Slot(again, real=False)] * spare)


def workers_for(num_micro_batches: int, max_accumulation: int) -> int:
    """Smallest number of workers at which no worker exceeds `max_accumulation`: ceil(N / k)."""
    return -(-num_micro_batches // max_accumulation)


def last_batch(samples_left: int, micro_batch_size: int) -> int:
    """Samples of a step that takes what is left, rounded up to whole micro-batches."""
    return -(-samples_left // micro_batch_size) * micro_batch_size


def grid(initial: int, maximum: int) -> Iterator[int]:
    """The job's own batch sizes: initial * 2^k up to the maximum, which is always on it.

    It depends on nothing but the manifest, least of all on the present world size.
    """
    batch = initial
    while batch < maximum:
        yield batch
        batch *= 2
    yield maximum


def identity(micro_batch_size: int, num_micro_batches: int, world_size: int) -> str:
    """The batch identity in one line, as it is printed at every start and resize."""
    return (
        f"global batch {micro_batch_size * num_micro_batches} samples"
        f" = {num_micro_batches} micro-batches x {micro_batch_size},"
        f" {accumulation(num_micro_batches, world_size)} per worker on {world_size} worker(s)"
    )
