"""Names and times the phases of a pause.

The marks are the points of the protocol, in order. They are what the leader acknowledges and
what a test hooks into to end a process at each of them.
"""

import time
from collections.abc import Callable

POINTS = ("greet", "open", "exchange", "build", "done", "commit", "begin")
SNAPSHOT_POINTS = ("snapshot", "copied", "sent", "complete")
"""Those of a snapshot; "copied" and "sent" are reached by its thread."""
LAST_SAVE = "last save"
"""All samples are consumed, and the last state is about to be saved."""


def ignore(point: str) -> None:
    """Do nothing at a point."""
    del point


class Phases:
    """A stopwatch over the points of one round; `reached` is called at each."""

    def __init__(self, reached: Callable[[str], None] = ignore) -> None:
        self.seconds: dict[str, float] = {}
        self._reached = reached
        self._last = time.perf_counter()

    def mark(self, point: str) -> None:
        """The phase that leads to `point` is over."""
        now = time.perf_counter()
        self.seconds[point] = round(self.seconds.get(point, 0.0) + now - self._last, 5)
        self._last = now
        self._reached(point)
