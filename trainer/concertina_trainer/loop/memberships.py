"""Which membership a worker is to enter next; the rounds (loop/rounds.py) ask.

While a round lasts it is one that all its workers have seen: they agree on the number in their
beats. Without a round it is the next one that concerns this worker.
"""

from collections.abc import Callable

from concertina_api.v1alpha1 import Membership
from concertina_trainer.loop.inbox import Inbox


class Memberships:
    """The memberships that one worker sees, by their numbers."""

    def __init__(
        self, inbox: Inbox, *, timeout_seconds: float, announce: Callable[[Membership], None]
    ) -> None:
        """`timeout_seconds`: how long a worker that has trained waits for the next one.

        `announce` is called with each newer one that is seen while the present round lasts.
        """
        self._inbox = inbox
        self.timeout_seconds = timeout_seconds
        self._announce = announce
        self._seen: Membership | None = None
        self.tried = 0
        """Number of the newest round that this worker has entered or tried to."""

    def newest(self) -> int:
        """Number of the newest round that this worker sees; the present one's if none is newer."""
        newest = self._inbox.newest()
        if newest is None or newest.round <= self.tried:
            return self.tried
        if newest != self._seen:
            self._seen = newest
            self._announce(newest)
        return newest.round

    def agreed(self, number: int | None) -> Membership | None:
        """The one that all workers of the round have seen, if they agree on a newer `number`."""
        seen = self._seen
        return seen if seen is not None and number == seen.round > self.tried else None

    def awaited(self, *, started: bool) -> Membership | None:
        """Wait, without a round, for one that was not tried yet.

        None: the pod must end, and no round has ever counted on this worker. Raises TimeoutError
        when this worker had `started` and no operator publishes any more.
        """
        timeout = self.timeout_seconds if started else None
        return self._inbox.await_round(self.tried, timeout=timeout)

    def is_overtaken(self) -> bool:
        """Whether there is a newer one than that which is being entered."""
        return self._inbox.newest_round() > self.tried
