"""Finds members of the round that do not answer any more: the suspects of the report.

A worker that waits for a peer whose machine is gone may wait for ever, and one whose connection
broke cannot tell a dead peer from one that merely gave up as well. So the agent dials: every
agent serves a store at the address that the membership tells. The kernel takes connections for a
process that is stopped, so the store itself is asked for an echo. While its workers train an agent
dials the next member only, so that somebody watches each; while they wait, and after a probe was
published, it dials all, for the operator to see who reaches whom.

Called by pod.py; dialling is done in a thread of its own.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from concertina_api.v1alpha1 import Member, Membership, PodPhase

MISSES = 3
"""Calls in a row without an answer that make a suspect."""
CALL_SECONDS = 0.75
"""Time from one call of a peer to the next, and the time that it has to answer."""
DOUBT_SECONDS = 30.0
"""How long all are dialled after a probe was published: arbitration needs no longer."""
# What a client of a TCPStore sends first (TCPStoreBackend.hpp): the query VALIDATE with a magic
# number, then the query PING with a number that the store sends back.
_HELLO = struct.pack("<BIBI", 0, 0x3C85F7CE, 13, 0x434F4E43)
_MAX_PEERS = 64
_AT_ONCE = 16


def peers(
    membership: Membership | None, *, uid: str, phase: PodPhase, in_doubt: bool = False
) -> tuple[Member, ...]:
    """Members that the pod `uid` dials while its workers are in `phase`. Pure.

    `in_doubt`: the operator asks who is there.
    """
    members = membership.members if membership is not None else ()
    places = [place for place, member in enumerate(members) if member.uid == uid]
    if not places or phase not in (PodPhase.TRAINING, PodPhase.WAITING):
        return ()
    others = (*members[places[0] + 1 :], *members[: places[0]])
    return others[: 1 if phase is PodPhase.TRAINING and not in_doubt else _MAX_PEERS]


def answers(member: Member, *, within_seconds: float = CALL_SECONDS) -> bool:
    """Whether the agent of a member does anything when it is called.

    Whatever it sends is an answer, and so is a connection that it ends: a stopped process and a
    machine that is cut off do neither.
    """
    deadline = time.monotonic() + within_seconds
    try:
        address = (member.host, member.port)
        connection = socket.create_connection(address, timeout=within_seconds)
    except OSError:
        return False
    with connection:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            connection.sendall(_HELLO)
            connection.recv(1)
        except TimeoutError:
            return False
        except OSError:
            return True
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    return True


class Reach:
    """Dials the peers of a pod and remembers who did not answer."""

    def __init__(
        self,
        *,
        answers: Callable[[Member], bool] = answers,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self._answers = answers
        self._call_seconds = call_seconds
        self._changed = threading.Condition()
        self._misses: dict[Member, int] = {}
        """Calls in a row that each peer has not answered, in the order of the ring."""
        self._called_at = 0.0
        self._probed: tuple[int, int] | None = None
        """Round and probe of the newest membership."""
        self._in_doubt_until = 0.0
        self._ended = False
        self._thread: threading.Thread | None = None

    @property
    def peers(self) -> tuple[Member, ...]:
        """Who is dialled now."""
        with self._changed:
            return tuple(self._misses)

    @property
    def suspects(self) -> tuple[str, ...]:
        """Peers that did not answer several times in a row."""
        with self._changed:
            return tuple(peer.pod for peer, misses in self._misses.items() if misses >= MISSES)

    def look(self, membership: Membership | None, *, uid: str, phase: PodPhase, now: float) -> None:
        """Dial from now on whom the pod `uid` needs while its workers are in `phase`.

        `now` in monotonic seconds.
        """
        in_doubt = self._is_in_doubt(membership, now=now)
        wanted = peers(membership, uid=uid, phase=phase, in_doubt=in_doubt)
        with self._changed:
            if wanted == tuple(self._misses):
                return
            self._misses = {peer: self._misses.get(peer, 0) for peer in wanted}
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

    def _is_in_doubt(self, membership: Membership | None, *, now: float) -> bool:
        """Whether a probe was added to the present round a short while ago."""
        if membership is None:
            return False
        before, self._probed = self._probed, (membership.round, membership.probe)
        if before is not None and before[0] != membership.round:
            self._in_doubt_until = 0.0  # the doubt was about the round before
        elif before is not None and before[1] != membership.probe:
            self._in_doubt_until = now + DOUBT_SECONDS
        return now < self._in_doubt_until

    def _run(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="concertina-dial") as pool:
            while targets := self._next():
                self._called_at = time.monotonic()
                self._count(targets, list(pool.map(self._dial, targets)))

    def _next(self) -> tuple[Member, ...]:
        """Whom to call now, after a pause that ends early when that changes; nobody at the end."""
        with self._changed:
            before = self._misses
            pause = self._called_at + self._call_seconds - time.monotonic()
            self._changed.wait_for(
                lambda: self._ended or self._misses is not before, timeout=max(pause, 0.0)
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
