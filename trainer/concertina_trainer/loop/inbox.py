"""What a worker is told from outside: memberships, when its pod must end, what its mates do."""

import time
from collections.abc import Callable

from concertina_api.v1alpha1 import Membership, PodPhase
from concertina_trainer.agent.mailbox import membership_inbox, notice_inbox, worker_statuses
from concertina_trainer.loop.context import WorkerContext
from concertina_trainer.rounds.watch import present

POLL_SECONDS = 0.005


class Inbox:
    """What one worker can read in the mailbox of its pod."""

    def __init__(self, context: WorkerContext) -> None:
        self._name, self._incarnation = context.name, context.incarnation
        self._mailbox = context.mailbox
        self._memberships = membership_inbox(context.mailbox)
        self._notices = notice_inbox(context.mailbox)

    def newest(self) -> Membership | None:
        """The newest membership, whether it names this worker or not."""
        return self._memberships.read()

    def names_me(self) -> bool:
        """Whether the newest membership counts on this worker."""
        newest = self.newest()
        return newest is not None and self._name in present(newest)

    def sees_finished(self) -> bool:
        """Whether a worker of this pod says that all is trained and saved."""
        return any(
            status.incarnation == self._incarnation
            and status.finished
            and status.phase is PodPhase.FINISHED
            for status in worker_statuses(self._mailbox)
        )

    def now(self) -> float:
        """In seconds of time.monotonic(), as the notice counts."""
        return time.monotonic()

    def grace_left(self) -> float | None:
        """Seconds until the pod must have ended; None when no such notice was given."""
        notice = self._notices.read()
        return None if notice is None else notice.deadline - self.now()

    def await_round(self, after: int, *, gives_up: Callable[[], bool] | None) -> Membership | None:
        """The first membership with a number above `after` that concerns this worker.

        With `gives_up` the worker was in a round before: every newer one concerns it, and
        TimeoutError is raised when that says so. Without, only one that names it does, and None
        is returned when the pod must end first.
        """
        while True:
            if gives_up is None and self.grace_left() is not None:
                return None
            newest = self.newest()
            if (
                newest is not None
                and newest.round > after
                and (gives_up is not None or self._name in present(newest))
            ):
                return newest
            if gives_up is not None and gives_up():
                raise TimeoutError(f"no membership after round {after}")
            time.sleep(POLL_SECONDS)
