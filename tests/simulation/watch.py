"""What a worker sees of memberships: its watch, and its inbox.

Called by the worker and by the seams; rounds/watch.is_hopeless is the real one.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from concertina_api.v1alpha1 import (
    Membership,
    PodPhase,
)
from concertina_trainer.rounds import watch

WATCH_SECONDS = 0.05

if TYPE_CHECKING:
    from tests.simulation.worker import Worker


class SimWatch:
    """The thread that breaks off what can never end: when to look is modelled (rounds/watch.py)."""

    def __init__(self, worker: "Worker", break_off: Any, **_: Any) -> None:
        self._worker, self._break_off = worker, break_off
        self._round, self._needed, self._entering = 2**62, frozenset[str](), False
        self._overtaken_at: float | None = None
        worker.watched_by(self)

    def entering(self, number: int, members: tuple[str, ...]) -> None:
        """See rounds.watch.Watch."""
        self._set(number, members, entering=True)

    def training(self, number: int, members: tuple[str, ...]) -> None:
        """See rounds.watch.Watch."""
        self._set(number, members, entering=False)

    def idle(self) -> None:
        """See rounds.watch.Watch."""
        self._set(2**62, (), entering=False)

    def stop(self) -> None:
        """See rounds.watch.Watch."""

    def _set(self, number: int, needed: tuple[str, ...], *, entering: bool) -> None:
        self._round, self._needed, self._entering = number, frozenset(needed), entering
        self._overtaken_at = None
        self._worker.kernel.after(WATCH_SECONDS, self.look)

    def look(self) -> None:
        """A turn of the thread; one that would change nothing is left out."""
        process, newest = self._worker.process, self._worker.agent.mail
        if process.dead or newest is None or newest.round <= self._round:
            return
        if process.frozen:
            self._worker.kernel.after(1.0, self.look)
            return
        now, overtaken = self._worker.kernel.now, None
        if self._entering:
            if self._overtaken_at is None:
                self._overtaken_at = now
                self._worker.kernel.after(watch.GIVEN_UP_SECONDS + WATCH_SECONDS, self.look)
            overtaken = now - self._overtaken_at
        if watch.is_hopeless(newest, needed=self._needed, overtaken_seconds=overtaken):
            self._break_off()


class Inbox:
    """What the worker reads of its mailbox (loop/inbox.py)."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker

    def newest(self) -> Membership | None:
        """The newest membership, whether it names this worker or not."""
        return self._worker.agent.mail

    def names_me(self) -> bool:
        """Whether the newest membership counts on this worker."""
        newest = self.newest()
        return newest is not None and self._worker.key in watch.present(newest)

    def sees_finished(self) -> bool:
        """Whether a worker of this pod says that all is trained and saved."""
        return any(
            mate.status.phase is PodPhase.FINISHED and mate.status.finished
            for mate in self._worker.agent.workers
        )

    def grace_left(self) -> float | None:
        """Seconds until the pod must have ended."""
        deadline = self._worker.agent.deadline
        return None if deadline is None else deadline - self._worker.kernel.now

    def now(self) -> float:
        """In virtual seconds."""
        return self._worker.kernel.now

    def await_round(self, after: int, *, gives_up: Callable[[], bool] | None) -> Membership | None:
        """As the product's, over virtual time."""
        worker = self._worker
        while True:
            if gives_up is None and self.grace_left() is not None:
                return None
            newest = self.newest()
            if (
                newest is not None
                and newest.round > after
                and (gives_up is not None or worker.key in watch.present(newest))
            ):
                return newest
            if gives_up is not None and gives_up():
                raise TimeoutError(f"no membership after round {after}")
            worker.process.pause(5.0)
