"""What each fault is on local processes. Entering a fault applies it, leaving undoes it."""

import contextlib
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.chaos import clock, disk
from tests.chaos.faults_processes import killed, signalled, slowed, stopped
from tests.chaos.local import LocalArena
from tests.chaos.schedule import Fault, Strike

RUBBISH = (b"", b"{", b"\x00\xff" * 64, b'{"spec": {"round": 1e300}}', b"[]\n", b"null")


def local_fault(arena: LocalArena, strike: Strike) -> AbstractContextManager[str]:
    """The fault of this strike, on whom it hits now.

    Raises Missed when there is nobody.
    """
    membership = arena.folder / "membership.json"
    match strike.fault:
        case Fault.KILL_WORKER:
            return killed([arena.worker(strike)])
        case Fault.KILL_LEADER:
            return killed(arena.workers()[:1])
        case Fault.KILL_AGENT:
            return killed([arena.agent(strike)])
        case Fault.KILL_POD:
            return killed(arena.pod(strike))
        case Fault.KILL_OPERATOR:
            return arena.operator_down()
        case Fault.STOP_WORKER:
            return stopped([arena.worker(strike)])
        case Fault.STOP_POD:
            return stopped(arena.pod(strike))
        case Fault.SLOW_WORKER:
            return slowed(arena.worker(strike))
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
        case Fault.FULL_DISK:
            return disk.full(arena.folder)
        case Fault.SLOW_DISK:
            return disk.slow(arena.folder)
        case Fault.CLOCK_STEP:
            assert arena.clock_folder is not None
            return clock.stepped(arena.clock_folder, target=strike.target)
    raise ValueError(f"{strike.fault} is not possible on local processes")


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
