"""A thread that breaks off a collective that can never end.

A worker blocked in a collective does not look at anything. This thread does: when a newer
membership says that a member of the present round is gone, it ends the round's connections, and
the blocked call raises. While a round is being entered, a newer one that names all members means
that this one was given up; but the newer one may also come from a leader that was faster, so that
counts only when this worker still has not arrived after a while. Who leaves by the round that is
being entered is not in the one after it: that alone says nothing.

As it runs whatever the worker waits for, it also gives the worker's signs of life (agent/pulse.py).
It gives none any more for a worker that waits on although its connections are gone, so that the
agent starts that worker anew: a task may wait in collectives of its own, which gloo may never end
(see waiting.py).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from concertina_api.v1alpha1 import Membership, workers_of
from concertina_trainer.agent.mailbox import membership_inbox
from concertina_trainer.agent.pulse import beat

INTERVAL_SECONDS = 0.05
BEAT_SECONDS = 0.5
GIVEN_UP_SECONDS = 2.0
"""How long entering goes on when a newer round names all members."""
STUCK_SECONDS = 30.0
"""How long a worker may wait on after its connections were ended."""


class Watch:
    """Watches the membership while a round is entered or trained."""

    def __init__(self, mailbox: Path, break_off: Callable[[], None], *, heartbeat: Path) -> None:
        self._inbox = membership_inbox(mailbox)
        self._heartbeat = heartbeat
        self._beat_at = float("-inf")
        self._break_off = break_off
        self._lock = threading.Lock()
        self._round = 0
        self._needed: frozenset[str] = frozenset()
        self._entering = False
        self._overtaken_at: float | None = None
        self._broken_at: float | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="concertina-watch", daemon=True).start()

    def entering(self, number: int, members: Iterable[str]) -> None:
        """From now on the loss of a member ends the waiting, or a newer round that stays."""
        self._set(number, members, entering=True)

    def training(self, number: int, members: Iterable[str]) -> None:
        """From now on only the loss of a member ends the waiting."""
        self._set(number, members, entering=False)

    def idle(self) -> None:
        """No group is open."""
        self._set(2**62, (), entering=False)

    def stop(self) -> None:
        """End the thread; no sign of life is expected from now on."""
        self._ended.set()

    def _set(self, number: int, needed: Iterable[str], *, entering: bool) -> None:
        with self._lock:
            self._round, self._needed, self._entering = number, frozenset(needed), entering
            self._overtaken_at = self._broken_at = None

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_SECONDS):
            if not self._is_stuck():
                self._beat()
            newest = self._inbox.read()
            with self._lock:
                if newest is not None and newest.round > self._round:
                    overtaken = self._overtaken_seconds()
                    if is_hopeless(newest, needed=self._needed, overtaken_seconds=overtaken):
                        self._broken_at = self._broken_at or time.monotonic()
                        self._break_off()
        with contextlib.suppress(OSError):
            self._heartbeat.unlink(missing_ok=True)

    def _is_stuck(self) -> bool:
        broken_at = self._broken_at
        return broken_at is not None and time.monotonic() - broken_at > STUCK_SECONDS

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beat_at >= BEAT_SECONDS:
            self._beat_at = now
            beat(self._heartbeat)

    def _overtaken_seconds(self) -> float | None:
        """Since when a newer round is known; None while this one is trained."""
        if not self._entering:
            return None
        now = time.monotonic()
        self._overtaken_at = self._overtaken_at or now
        return now - self._overtaken_at


def is_hopeless(
    newest: Membership, *, needed: frozenset[str], overtaken_seconds: float | None
) -> bool:
    """Whether a collective of an older round can never end.

    `needed` are the members of that round; `overtaken_seconds` is None while it is trained.
    """
    if not needed <= present(newest):
        return True
    return overtaken_seconds is not None and overtaken_seconds > GIVEN_UP_SECONDS


def present(membership: Membership) -> set[str]:
    """Workers that a membership counts on, members and leavers."""
    return {*membership.workers(), *workers_of(membership.leaving)}
