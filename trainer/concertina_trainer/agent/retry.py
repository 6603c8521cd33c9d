"""Says how long to wait before the API server is asked again. Pure, but for the dice.

Thousands of pods lose the same server at the same moment, so no two of them wait equally long.
"""

import random
from collections.abc import Callable

FIRST_SECONDS = 0.5
MOST_SECONDS = 15.0
MAX_RETRY_AFTER_SECONDS = 60.0
"""A server that wants to be left alone for longer is asked again after this time."""


class Retry:
    """Waiting times that double with every failure in a row."""

    def __init__(
        self,
        *,
        first_seconds: float = FIRST_SECONDS,
        most_seconds: float = MOST_SECONDS,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`draw` gives numbers from 0 to 1."""
        self._first = first_seconds
        self._most = most_seconds
        self._draw = draw
        self._failures = 0

    def delay_seconds(self, *, at_least: float = 0.0) -> float:
        """Time to wait after one more failure; `at_least` is what the server asked for."""
        delay = min(self._first * 2.0 ** min(self._failures, 32), self._most)
        self._failures += 1
        wished = min(at_least, MAX_RETRY_AFTER_SECONDS)
        return max(delay * (0.5 + self._draw()), wished * (1 + self._draw() / 2))

    def succeeded(self) -> None:
        """The next failure is a first one."""
        self._failures = 0
