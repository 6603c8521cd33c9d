"""Decides which workers the others wait for: stragglers, as opposed to the dead.

A worker that is slow makes all others wait in the collectives of every step, and hardly waits
itself. So each worker measures the time that it spends in them (loop/waits.py); the step's
reduction tells all of them the time of each. The leader reports it; nobody is excluded for it.
Pure: no torch, no I/O, no clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from concertina_api.v1alpha1 import Membership

HORIZON_STEPS = 20
"""Steps over which waiting is averaged."""
SLOW_SHARE = 0.3
"""Part of a step that all others wait longer than a slow worker does."""
FAST_SHARE = 0.2
"""The same below which it is not slow any more: noise does not make it one and the other in turn."""
_MOST_PODS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How long the workers of a round wait for each other, by rank."""

    shares: tuple[float, ...] = ()
    """Average part of a step that each waits."""
    num_steps: int = 0
    slow_ranks: tuple[int, ...] = ()
    """Ranks that wait far less than all the others, at most half of them."""

    def after_step(self, seconds: Sequence[float], *, step_seconds: float) -> "Waiting":
        """The averages with one step more, in which each rank waited `seconds`."""
        if step_seconds <= 0:
            return self
        weight = 1 / min(self.num_steps + 1, HORIZON_STEPS)
        before = self.shares or (0.0,) * len(seconds)
        shares = tuple(
            old + weight * (new / step_seconds - old)
            for old, new in zip(before, seconds, strict=True)
        )
        num_steps = self.num_steps + 1
        slow = self._slow(shares) if num_steps >= HORIZON_STEPS else ()
        return Waiting(shares=shares, num_steps=num_steps, slow_ranks=slow)

    def slow_pods(self, membership: Membership) -> tuple[str, ...]:
        """Pods of slow workers, in rank order; as many as a report may name."""
        pods = [member.pod for member in membership.members for _ in range(member.workers)]
        return tuple(dict.fromkeys(pods[rank] for rank in self.slow_ranks))[:_MOST_PODS]

    def _slow(self, shares: Sequence[float]) -> tuple[int, ...]:
        """Those below the widest gap between two ranks in the order of their shares.

        A gap that has become narrower keeps who is slow already, and adds nobody.
        """
        order = sorted(range(len(shares)), key=lambda rank: shares[rank])
        gaps = [
            (shares[order[count]] - shares[order[count - 1]], count)
            for count in range(1, len(order) // 2 + 1)
        ]
        widest, count = max(gaps, default=(0.0, 0))
        below = sorted(order[:count])
        if widest >= SLOW_SHARE:
            return tuple(below)
        return tuple(rank for rank in below if rank in self.slow_ranks and widest >= FAST_SHARE)
