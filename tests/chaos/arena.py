"""What faults are done to, wherever the run is, and the loop that does them.

`play` is called once a run. Undoing is certain: whatever becomes of a strike, what it changed on
the machine is changed back before `play` returns.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Protocol

from tests.chaos.schedule import Strike

POLL_SECONDS = 0.02


class Arena(Protocol):
    """A run that can be hit."""

    def samples(self) -> int:
        """Samples in the newest step of the record that counts."""

    def is_over(self) -> bool:
        """Whether the run has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A strike that was done, or could not be."""

    strike: Strike
    at: float
    """Seconds after the start of the run."""
    what: str
    """Whom it hit, or why nobody."""
    missed: bool = False


PATIENCE_SECONDS = 60.0
"""A strike that finds nobody is tried again for so long: pods come back, on a busy machine late."""


class Missed(Exception):
    """There is nothing now that the strike could hit; the message says what."""


Apply = Callable[[Strike], AbstractContextManager[str]]
"""The fault of a strike: entered to apply, it tells whom it hit; left to undo."""


def play(
    strikes: Sequence[Strike], arena: Arena, apply: Apply, *, deadline_seconds: float
) -> list[Hit]:
    """Do the strikes in their order while the run goes on, and wait for its end.

    A run that has not ended at the deadline is left as it is.
    """
    began = time.monotonic()
    hits: list[Hit] = []
    ends: list[tuple[float, ExitStack]] = []
    waiting = list(strikes)
    tried_since = 0.0
    with ExitStack() as everything:
        while not arena.is_over() or any(end for end, _ in ends):
            now = time.monotonic()
            if now - began > deadline_seconds:
                break
            for end, stack in [pair for pair in ends if pair[0] <= now]:
                ends.remove((end, stack))
                stack.close()
            if waiting and _is_due(waiting[0], hits, arena, now=now - began):
                strike, tried_since = waiting[0], tried_since or now
                stack = everything.enter_context(ExitStack())
                what, missed = _attempt(strike, apply, stack)
                somebody_may_come = now - tried_since < PATIENCE_SECONDS and not arena.is_over()
                if not (missed and somebody_may_come):
                    hits.append(Hit(strike=strike, at=now - began, what=what, missed=missed))
                    waiting.pop(0)
                    tried_since = 0.0
                if not missed:
                    ends.append((time.monotonic() + strike.seconds, stack))
            time.sleep(POLL_SECONDS)  # the run itself
    return hits


def _attempt(strike: Strike, apply: Apply, stack: ExitStack) -> tuple[str, bool]:
    """What was struck, or why nothing was, and whether it missed; `stack` undoes it."""
    try:
        return stack.enter_context(apply(strike)), False
    except Missed as missed:
        return f"(missed: {missed})", True


def _is_due(strike: Strike, hits: Sequence[Hit], arena: Arena, *, now: float) -> bool:
    if strike.after_seconds is not None:
        return now >= hits[-1].at + strike.after_seconds
    return arena.samples() >= (strike.at_samples or 0)
