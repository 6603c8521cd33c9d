"""The time by which jobs are planned: it goes on evenly when somebody sets the machine's.

Used by both shells, for a leader's term and for a local run. GPU seconds and deadlines are
differences of these times: a step of the wall clock would be charged, or let a deadline pass.
"""

import time
from datetime import UTC, datetime, timedelta


class SteadyClock:
    """The wall clock as it was when this one was set, and even time since then."""

    def __init__(self) -> None:
        self.set()

    def set(self) -> None:
        """Takes over the wall clock's time, before anything is planned by this one."""
        self._set_to = datetime.now(UTC)
        self._since = time.monotonic()

    def now(self) -> datetime:
        """Aware, in UTC."""
        return self._set_to + timedelta(seconds=time.monotonic() - self._since)
