"""Which membership a worker is to enter next; the rounds (loop/rounds.py) ask.

While a round lasts it is one that all its workers have seen: they agree on the number in their
beats. Without a round it is the next one that concerns this worker; and when none comes for long,
who has trained gives up, with time to save what it holds.
"""

from collections.abc import Callable

from concertina_api.v1alpha1 import Membership
from concertina_trainer.loop.inbox import Inbox

ROUND_SECONDS = 600.0
"""A round may take so long to be entered, however short the patience without one is."""


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
        self._has_trained = False
        self._since: float | None = None
        """When this worker began to wait for a membership, or to enter the newest; by the inbox's
        clock. None while a round lasts."""
        self.tried = 0
        """Number of the newest round that this worker has entered or tried to."""

    def newest(self) -> int:
        """Number of the newest round that this worker sees; the present one's if none is newer."""
        newest = self.newer()
        if newest is None:
            return self.tried
        if newest != self._seen:
            self._seen = newest
            self._announce(newest)
        return newest.round

    def newer(self) -> Membership | None:
        """The newest that this worker sees, if it was not tried yet."""
        newest = self._inbox.newest()
        return newest if newest is not None and newest.round > self.tried else None

    def agreed(self, number: int | None) -> Membership | None:
        """The one that all workers of the round have seen, if they agree on a newer `number`."""
        seen = self._seen
        return seen if seen is not None and number == seen.round > self.tried else None

    def entering(self, number: int) -> None:
        """A round is tried."""
        self.tried, self._since = number, self._inbox.now()

    def entered(self) -> None:
        """The round that was tried is committed."""
        self._has_trained, self._since = True, None

    def awaited(self) -> Membership | None:
        """Wait, without a round, for one that was not tried yet.

        None: the pod must end, and no round has ever counted on this worker. Raises TimeoutError
        when this worker has trained and no operator publishes any more.
        """
        if not self._has_trained:
            return self._inbox.await_round(self.tried, gives_up=None)
        if self._since is None:
            self._since = self._inbox.now()
        try:
            return self._inbox.await_round(self.tried, gives_up=self._is_patience_over)
        except TimeoutError as error:
            raise TimeoutError(f"{error} within {self._waited():.0f} s") from error

    def is_overtaken(self) -> bool:
        """Whether to wait no longer for the others of the round that is being entered.

        There is a newer one; or nobody may be left who would publish one. Who has never trained
        has nothing to save, and may wait for the end of a long step.
        """
        if self.newer() is not None:
            return True
        return self._has_trained and self._waited() > max(self.timeout_seconds, ROUND_SECONDS)

    def _is_patience_over(self) -> bool:
        """Whether it is time to save; a pod that must end leaves for that as long as it waited."""
        waited, grace_left = self._waited(), self._inbox.grace_left()
        return waited > self.timeout_seconds or (grace_left is not None and waited > grace_left)

    def _waited(self) -> float:
        """Seconds without a round."""
        return 0.0 if self._since is None else self._inbox.now() - self._since
