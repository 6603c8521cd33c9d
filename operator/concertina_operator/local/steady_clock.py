"""The time by which a local run is planned: it goes on evenly when somebody sets the machine's.

Used by the shell for plans and for the ages of pods. GPU seconds and deadlines are differences of
these times: a step of the wall clock would be charged, or let a deadline pass.
"""

import time
from datetime import UTC, datetime, timedelta


class SteadyClock:
    """The wall clock as it was when this one was made, and even time since then."""

    def __init__(self) -> None:
        self._made = datetime.now(UTC)
        self._since = time.monotonic()

    def now(self) -> datetime:
        """Aware, in UTC."""
        return self._made + timedelta(seconds=time.monotonic() - self._since)
