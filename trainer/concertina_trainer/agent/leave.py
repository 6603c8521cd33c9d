"""The order to end: SIGTERM and SIGINT ask the agent to leave, a second one to end at once.

Handlers only note the order; the turns of the agent's loop act on it.
"""

import signal
import time
from dataclasses import dataclass
from types import FrameType

KILL_MARGIN_SECONDS = 2.0
"""Workers that have not left are killed this long before the agent itself would be."""


@dataclass(slots=True)
class Leave:
    """Whether the pod was told to end."""

    grace_seconds: float
    """Time between the order and SIGKILL for the whole pod."""
    ordered_at: float | None = None
    """Monotonic time of the order; None: nobody asked."""
    at_once: bool = False

    @property
    def deadline(self) -> float | None:
        """Monotonic time at which workers that are still here are killed; None: nobody asked."""
        if self.ordered_at is None:
            return None
        margin = min(KILL_MARGIN_SECONDS, self.grace_seconds / 10)
        return self.ordered_at + self.grace_seconds - margin

    def order(self, *, now: float) -> None:
        """Take the order to end, given at `now` in monotonic seconds."""
        if self.ordered_at is None:
            self.ordered_at = now
        else:
            self.at_once = True

    def shorten(self, grace_seconds: float) -> None:
        """Take note that this deletion grants less time than usual; it never grants more."""
        self.grace_seconds = min(self.grace_seconds, grace_seconds)

    def listen(self) -> None:
        """Install the signal handlers of this process."""

        def handle(_number: int, _frame: FrameType | None) -> None:
            self.order(now=time.monotonic())

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)
