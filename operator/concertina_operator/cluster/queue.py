"""Which job is reconciled next: each at most once in the queue, and never by two workers at once.

All events only put a job's key here. A key that is added while its job is being reconciled waits
for the end of it. Time is the event loop's.
"""

import asyncio
import random
from collections import deque
from collections.abc import Hashable, Mapping
from typing import Any, Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_RETRY_SECONDS: Final = 1.0
LONGEST_RETRY_SECONDS: Final = 60.0


class Queue(Generic[K]):
    """Deduplicates keys and lends each to one worker at a time."""

    def __init__(self) -> None:
        self._waiting: deque[K] = deque()
        self._since: dict[K, float] = {}
        """Since when a key asks to be taken, active ones included."""
        self._active: dict[K, float] = {}
        """Since when a key is lent."""
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._added = asyncio.Event()

    def __len__(self) -> int:
        return len(self._since)

    def add(self, key: K) -> None:
        """Asks for the key to be taken soon."""
        self._cancel(key)
        if key in self._since:
            return
        self._since[key] = asyncio.get_running_loop().time()
        if key not in self._active:
            self._wait(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Asks for the key to be taken in `seconds`; an earlier wish stands, a later one ends."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= loop.time() + seconds:
            return
        self._cancel(key)
        self._timers[key] = loop.call_later(seconds, self.add, key)

    async def take(self) -> K:
        """The next key, lent until `done`."""
        while not self._waiting:
            self._added.clear()
            await self._added.wait()
        key = self._waiting.popleft()
        del self._since[key]
        self._active[key] = asyncio.get_running_loop().time()
        return key

    def done(self, key: K) -> None:
        """Gives a key back whose job was reconciled."""
        self._failures.pop(key, None)
        self._give_back(key)

    def failed(self, key: K) -> float:
        """Gives a key back to be taken again; the seconds until then, longer each time."""
        number = self._failures.get(key, 0)
        self._failures[key] = number + 1
        delay = min(FIRST_RETRY_SECONDS * 2.0 ** min(number, 16), LONGEST_RETRY_SECONDS)
        delay *= 0.8 + 0.4 * random.random()
        self._give_back(key)
        self.add_after(key, delay)
        return delay

    def oldest_seconds(self) -> float:
        """How long the key that waits longest has been waiting."""
        return _age_of_first(self._since)

    def busiest_seconds(self) -> float:
        """How long the key that is lent longest has been lent."""
        return _age_of_first(self._active)

    def _give_back(self, key: K) -> None:
        self._active.pop(key, None)
        if key in self._since:
            self._wait(key)

    def _wait(self, key: K) -> None:
        self._waiting.append(key)
        self._added.set()

    def _cancel(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()


def _age_of_first(moments: Mapping[Any, float]) -> float:
    """Seconds since the first moment, which is the oldest one."""
    first = next(iter(moments.values()), None)
    return asyncio.get_running_loop().time() - first if first is not None else 0.0
