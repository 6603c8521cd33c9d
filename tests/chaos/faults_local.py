"""What each fault is on local processes. Entering a fault applies it, leaving undoes it."""

import contextlib
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.chaos.faults_anywhere import fault_anywhere
from tests.chaos.faults_processes import signalled
from tests.chaos.local import LocalArena
from tests.chaos.schedule import Fault, Strike

RUBBISH = (b"", b"{", b"\x00\xff" * 64, b'{"spec": {"round": 1e300}}', b"[]\n", b"null")


def local_fault(arena: LocalArena, strike: Strike) -> AbstractContextManager[str]:
    """The fault of this strike, on whom it hits now.

    Raises Missed when there is nobody.
    """
    membership = arena.folder / "membership.json"
    match strike.fault:
        case Fault.LEAVE:
            return signalled(arena.agent(strike), signal.SIGTERM)
        case Fault.DELETE_MEMBERSHIP:
            return deleted(membership)
        case Fault.DELETE_REPORT:
            return deleted(arena.report(strike))
        case Fault.RUBBISH_MEMBERSHIP:
            return overwritten(membership, strike)
        case Fault.RUBBISH_REPORT:
            return overwritten(arena.report(strike), strike)
    return fault_anywhere(arena, strike)


@contextmanager
def deleted(path: Path) -> Iterator[str]:
    """The file is gone; whoever wrote it may write it again."""
    path.unlink(missing_ok=True)
    yield path.name


@contextmanager
def overwritten(path: Path, strike: Strike) -> Iterator[str]:
    """The file holds rubbish, in place: a reader may see a part of it."""
    rubbish = RUBBISH[int(strike.target * len(RUBBISH))]
    with contextlib.suppress(OSError):  # a full disk spares it
        path.write_bytes(rubbish)
    yield f"{path.name} {rubbish[:12]!r}"
