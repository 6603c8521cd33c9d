"""Who keeps whose part of a snapshot. Pure: no torch, no I/O.

A worker's part goes to the same place in the next pod, so that the loss of a whole pod leaves a
copy of all that its workers held. Called by snapshots.py when a round begins.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The two neighbours of a rank; with two pods both are the same worker."""

    keeper: int
    """Rank that keeps this one's part."""
    charge: int
    """Rank whose part this one keeps."""


def neighbours(rank: int, *, world_size: int, workers_per_pod: int) -> Neighbours | None:
    """The neighbours of `rank`; None in a world of one pod, where a copy would die with it."""
    if world_size <= workers_per_pod:
        return None
    return Neighbours(
        keeper=(rank + workers_per_pod) % world_size,
        charge=(rank - workers_per_pod) % world_size,
    )
