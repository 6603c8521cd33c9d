"""Bounds how fast pods are created, over all jobs: a token bucket. Used by apply.py."""

import asyncio


class Rate:
    """Turns at an even pace after a first burst."""

    def __init__(self, *, per_second: float, burst: int) -> None:
        self._interval = 1 / per_second
        self._ahead = burst * self._interval
        self._next_at = float("-inf")

    async def turn(self) -> None:
        """Waits for the next turn."""
        now = asyncio.get_running_loop().time()
        self._next_at = max(self._next_at + self._interval, now - self._ahead)
        if self._next_at > now:
            await asyncio.sleep(self._next_at - now)
