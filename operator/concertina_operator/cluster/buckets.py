"""Bounds how often something may happen for one job, so that it costs the others little.

Token buckets by key: a burst is free, and after that one token comes at a time. Used for what a
report causes (observe.py) and for events (events.py). Pure: no I/O, no clock; times in seconds.
"""

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_MANY: Final = 10_000


class Buckets(Generic[K]):
    """One bucket for each key; those that are full are not kept."""

    def __init__(self, *, burst: int, seconds_per_token: float) -> None:
        self._interval = seconds_per_token
        self._capacity = burst * seconds_per_token
        self._full_at: dict[K, float] = {}
        self._sweep_at = _MANY

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: K, *, now: float) -> float:
        """Takes a token and returns 0; or takes none, and returns the seconds until there is one."""
        full_at = max(self._full_at.get(key, now), now) + self._interval
        if full_at > now + self._capacity:
            return full_at - now - self._capacity
        self._full_at[key] = full_at
        if len(self._full_at) > self._sweep_at:
            self._full_at = {key: at for key, at in self._full_at.items() if at > now}
            self._sweep_at = max(2 * len(self._full_at), _MANY)
        return 0.0
