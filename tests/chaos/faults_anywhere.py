"""The faults that are the same on local processes and on a real node."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from tests.chaos import clock, disk
from tests.chaos.faults_processes import killed, slowed, stopped
from tests.chaos.processes import Owned
from tests.chaos.schedule import Fault, Strike


class Processes(Protocol):
    """An arena as far as these faults need it; whom a strike hits is the arena's choice."""

    @property
    def folder(self) -> Path: ...

    @property
    def clock_folder(self) -> Path | None: ...

    def workers(self) -> Sequence[Owned]: ...

    def worker(self, strike: Strike) -> Owned: ...

    def agent(self, strike: Strike) -> Owned: ...

    def pod(self, strike: Strike) -> Sequence[Owned]: ...

    def operator_down(self) -> AbstractContextManager[str]: ...


def fault_anywhere(arena: Processes, strike: Strike) -> AbstractContextManager[str]:
    """The fault of this strike, on whom it hits now.

    Raises Missed when there is nobody, ValueError for a fault that the arena lacks.
    """
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
        case Fault.FULL_DISK:
            return disk.full(arena.folder)
        case Fault.SLOW_DISK:
            return disk.slow(arena.folder)
        case Fault.CLOCK_STEP:
            assert arena.clock_folder is not None
            return clock.stepped(arena.clock_folder, target=strike.target)
    raise ValueError(f"{strike.fault} is not possible here")
