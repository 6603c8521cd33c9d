"""A thread that breaks off a collective that can never end.

A worker blocked in a collective does not look at anything. This thread does: when a newer
membership says that somebody of the present round is gone, it ends the round's connections, and
the blocked call raises. While a round is being entered, a newer one that names everybody means
that this one was given up; but the newer one may also come from a leader that was faster, so
that counts only when this worker still has not arrived after a while.
"""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from concertina_api.v1alpha1 import Membership, workers_of
from concertina_trainer.agent.mailbox import membership_inbox

INTERVAL_SECONDS = 0.05
GIVEN_UP_SECONDS = 2.0
"""How long entering goes on when a newer round names everybody."""


class Watch:
    """Watches the membership while a round is entered or trained."""

    def __init__(self, mailbox: Path, break_off: Callable[[], None]) -> None:
        self._inbox = membership_inbox(mailbox)
        self._break_off = break_off
        self._lock = threading.Lock()
        self._round = 0
        self._needed: frozenset[str] = frozenset()
        self._entering = False
        self._overtaken_at: float | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="concertina-watch", daemon=True).start()

    def entering(self, number: int, participants: Iterable[str]) -> None:
        """From now on the loss of a participant ends the waiting, or a newer round that stays."""
        self._set(number, participants, entering=True)

    def training(self, number: int, members: Iterable[str]) -> None:
        """From now on only the loss of a member ends the waiting."""
        self._set(number, members, entering=False)

    def idle(self) -> None:
        """No group is open."""
        self._set(2**62, (), entering=False)

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()

    def _set(self, number: int, needed: Iterable[str], *, entering: bool) -> None:
        with self._lock:
            self._round, self._needed, self._entering = number, frozenset(needed), entering
            self._overtaken_at = None

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_SECONDS):
            newest = self._inbox.read()
            with self._lock:
                if newest is not None and newest.round > self._round and self._hopeless(newest):
                    self._break_off()

    def _hopeless(self, newest: Membership) -> bool:
        if not self._needed <= present(newest):
            return True
        if not self._entering:
            return False
        now = time.monotonic()
        self._overtaken_at = self._overtaken_at or now
        return now - self._overtaken_at > GIVEN_UP_SECONDS


def present(membership: Membership) -> set[str]:
    """Workers that a membership counts on, members and leavers."""
    return {*membership.workers(), *workers_of(membership.leaving)}
