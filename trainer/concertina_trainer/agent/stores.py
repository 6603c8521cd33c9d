"""The stores in which rounds meet: an agent serves them, never a worker.

A leader needs a store that nobody has written to, so there is always a fresh one, whose port the
report tells. Once a membership uses it, it is kept until its round's successor is committed.
"""

from collections.abc import Callable
from typing import Protocol


class Server(Protocol):
    """A bound store; it ends when the last reference to it does."""

    @property
    def port(self) -> int:
        """TCP port that it listens on."""


class RoundStores:
    """The fresh store and those of the newest rounds."""

    def __init__(self, bind: Callable[[], Server]) -> None:
        self._bind = bind
        self._fresh: Server | None = None
        self._serving: dict[int, Server] = {}

    @property
    def port(self) -> int | None:
        """Port of the fresh store; None before `open`."""
        return self._fresh.port if self._fresh else None

    @property
    def rounds(self) -> tuple[int, ...]:
        """Rounds whose stores are still served, oldest first."""
        return tuple(sorted(self._serving))

    def open(self) -> None:
        """Bind the first store; called when the workers are warm."""
        self._fresh = self._fresh or self._bind()

    def serve(self, number: int, *, port: int) -> None:
        """Note that round `number` meets in the store at `port`, and have a fresh one ready."""
        if self._fresh is not None and self._fresh.port == port:
            self._serving[number] = self._fresh
            self._fresh = self._bind()
            return
        # Two memberships in a row may name the same store, before the report of the next was read.
        for server in self._serving.values():
            if server.port == port:
                self._serving[number] = server
                return

    def retire(self, committed: int) -> None:
        """Drop the stores of rounds before the committed one, but keep the two newest."""
        for number in self.rounds[:-2]:
            if number < committed:
                del self._serving[number]
