"""What is done to processes, wherever their pods are. Entering applies it, leaving undoes it."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.chaos.arena import Missed
from tests.chaos.processes import Owned, signal_all

TURN_SECONDS = 0.05
"""How long a slow worker runs before it stands still again."""


@contextmanager
def killed(processes: Sequence[Owned]) -> Iterator[str]:
    """kill -9 of all of them."""
    if not processes:
        raise Missed("no worker trains")
    signal_all(processes, signal.SIGKILL)
    yield _names(processes)


@contextmanager
def stopped(processes: Sequence[Owned]) -> Iterator[str]:
    """They stand still, and go on in the end."""
    signal_all(processes, signal.SIGSTOP)
    try:
        yield _names(processes)
    finally:
        signal_all(processes, signal.SIGCONT)


@contextmanager
def slowed(process: Owned, *, stands_seconds: float = TURN_SECONDS) -> Iterator[str]:
    """It stands still for so long in each turn: half of the time unless told."""
    end = threading.Event()

    def hinder() -> None:
        while not end.wait(TURN_SECONDS):
            process.signal(signal.SIGSTOP)
            end.wait(stands_seconds)
            process.signal(signal.SIGCONT)

    thread = threading.Thread(target=hinder, name="slow worker")
    thread.start()
    try:
        yield _names([process])
    finally:
        end.set()
        thread.join()


@contextmanager
def signalled(process: Owned, number: signal.Signals) -> Iterator[str]:
    """It is told once."""
    process.signal(number)
    yield _names([process])


def _names(processes: Sequence[Owned]) -> str:
    first = processes[0]
    more = f" and {len(processes) - 1} more" if len(processes) > 1 else ""
    return f"{first.program or 'a child'} of {first.pod}{more}"
