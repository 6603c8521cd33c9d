"""Decides which sample of the data set each sample number is, and what its generators start from.

Pure: no torch, no I/O; functions of (seed, sample number) and nothing else. So the order is the
same at every world size, after every crash, and costs no memory per sample. Called by the data
loader and by the loop.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from math import isqrt

_MASK = 2**64 - 1
_ROUNDS = 8


class Stream(IntEnum):
    """What a seed is for, so that no two uses share their random numbers."""

    FORWARD = 0
    """Dropout and the like, by the first sample number of the micro-batch."""
    AUGMENTATION = 1
    """Random changes of a sample, by its number."""
    SHUFFLE = 2
    """The order of an epoch, by the number of the epoch."""


def seed_of(seed: int, sample: int, *, stream: Stream = Stream.FORWARD) -> int:
    """Seed in [0, 2^64) of a generator for one sample number."""
    return _mixed(_mixed(_mixed(seed) ^ stream) ^ sample)


def _mixed(value: int) -> int:
    """One output of splitmix64 (Steele, Lea, Flood 2014, figure 17); a bijection of 64 bits."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shuffled:
    """Every epoch is another permutation of the data set."""

    num_samples: int
    """Samples in the data set."""
    seed: int

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"a data set of {self.num_samples} samples has no order")

    def index(self, sample: int) -> int:
        """Index in the data set of sample number `sample`, in whatever epoch that lies."""
        epoch, position = divmod(sample, self.num_samples)
        return _permuted(position, self.num_samples, _round_keys(self.seed, epoch))


@lru_cache(maxsize=16)
def _round_keys(seed: int, epoch: int) -> tuple[tuple[int, int], ...]:
    key = seed_of(seed, epoch, stream=Stream.SHUFFLE)
    return tuple((_mixed(key ^ turn), _mixed(key ^ (turn + 1))) for turn in range(0, _ROUNDS, 2))


def _permuted(position: int, size: int, keys: Iterable[tuple[int, int]]) -> int:
    """Where a keyed permutation of range(size) takes `position`.

    A Feistel network over Z_a x Z_b with a b >= size, walked until it comes back below `size`
    (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", sections 3 and 5). With
    a = ceil(sqrt(size)) nearly every walk ends after one turn.
    """
    a = isqrt(size - 1) + 1
    b = -(-size // a)
    while True:
        left, right = divmod(position, b)
        for to_left, to_right in keys:
            left = (left + _mixed(to_left ^ right)) % a
            right = (right + _mixed(to_right ^ left)) % b
        position = left * b + right
        if position < size:
            return position
