"""Finds members of the round that do not answer any more: the suspects of the report.

A worker that waits for a peer whose machine is gone may wait for ever, and one whose connection
broke cannot tell a dead peer from one that merely gave up as well. So the agent dials: every
agent serves a store at the address that the membership tells, and the kernel takes connections to
it however busy the machine is. While its workers train an agent dials the next member only, so
that somebody watches each; while they wait it dials all, for the operator to see who reaches whom.

Called by pod.py; dialling is done in a thread of its own.
"""

import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from concertina_api.v1alpha1 import Member, Membership, PodPhase

MISSES = 3
"""Calls in a row without an answer that make a suspect."""
TRAINING_SECONDS = 5.0
"""Time between two calls while workers train."""
WAITING_SECONDS = 1.0
"""Time between two calls while they wait."""
DIAL_SECONDS = 2.0
_MAX_PEERS = 64
_AT_ONCE = 16


def peers(membership: Membership | None, *, uid: str, phase: PodPhase) -> tuple[Member, ...]:
    """Members that the pod `uid` dials while its workers are in `phase`. Pure."""
    members = membership.members if membership is not None else ()
    places = [place for place, member in enumerate(members) if member.uid == uid]
    if not places:
        return ()
    others = (*members[places[0] + 1 :], *members[: places[0]])
    if phase is PodPhase.TRAINING:
        return others[:1]
    return others[:_MAX_PEERS] if phase is PodPhase.WAITING else ()


def answers(member: Member) -> bool:
    """Whether the agent of a member takes connections."""
    try:
        socket.create_connection((member.host, member.port), timeout=DIAL_SECONDS).close()
    except OSError:
        return False
    return True


class Reach:
    """Dials the peers of a pod and remembers who did not answer."""

    def __init__(
        self,
        *,
        answers: Callable[[Member], bool] = answers,
        training_seconds: float = TRAINING_SECONDS,
        waiting_seconds: float = WAITING_SECONDS,
    ) -> None:
        self._answers = answers
        self._seconds = {PodPhase.TRAINING: training_seconds, PodPhase.WAITING: waiting_seconds}
        self._changed = threading.Condition()
        self._misses: dict[Member, int] = {}
        """Calls in a row that each peer has not answered, in the order of the ring."""
        self._pause_seconds = 0.0
        self._ended = False
        self._thread: threading.Thread | None = None

    @property
    def suspects(self) -> tuple[str, ...]:
        """Peers that did not answer several times in a row."""
        with self._changed:
            return tuple(peer.pod for peer, misses in self._misses.items() if misses >= MISSES)

    def look(self, membership: Membership | None, *, uid: str, phase: PodPhase) -> None:
        """Dial from now on whom the pod `uid` needs while its workers are in `phase`."""
        wanted = peers(membership, uid=uid, phase=phase)
        with self._changed:
            pause = self._seconds.get(phase, 0.0)
            if wanted == tuple(self._misses) and pause == self._pause_seconds:
                return
            self._misses = {peer: self._misses.get(peer, 0) for peer in wanted}
            self._pause_seconds = pause
            self._changed.notify_all()
        if wanted and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="concertina-reach", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the calls."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="concertina-dial") as pool:
            while targets := self._next():
                self._count(targets, list(pool.map(self._dial, targets)))

    def _next(self) -> tuple[Member, ...]:
        """Whom to call now, after a pause that ends early when that changes; nobody at the end."""
        with self._changed:
            before = self._misses
            self._changed.wait_for(
                lambda: self._ended or self._misses is not before, timeout=self._pause_seconds
            )
            self._changed.wait_for(lambda: self._ended or self._misses)
            return () if self._ended else tuple(self._misses)

    def _dial(self, peer: Member) -> bool:
        return self._ended or self._answers(peer)

    def _count(self, targets: Sequence[Member], answered: Sequence[bool]) -> None:
        with self._changed:
            for peer, answer in zip(targets, answered, strict=True):
                if peer in self._misses:
                    self._misses[peer] = 0 if answer else self._misses[peer] + 1
