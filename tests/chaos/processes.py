"""Whose the processes of a run are, found as an operator of the machine finds them: in /proc."""

import os
import signal
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.processes import Process

PROGRAMS = {b"concertina_trainer.agent": "agent", b"concertina_trainer.worker": "worker"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """A living process of a pod."""

    process: Process
    pod: str
    uid: str
    program: str
    """agent, worker, or empty for what they started."""

    def signal(self, number: signal.Signals) -> None:
        """Send it; nothing happens when it has ended."""
        try:
            handle = os.pidfd_open(self.process.pid)
        except ProcessLookupError:
            return
        try:
            # The descriptor is opened before the look: the number may by then be another process.
            if self.process.is_alive():
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return
        finally:
            os.close(handle)


def of_run(run_folder: Path) -> list[Owned]:
    """The processes of all pods of the local run in this folder."""
    mark = b"CONCERTINA_RUN_DIR=" + os.fsencode(run_folder)
    return _owned(lambda variables: mark in variables)


def of_pods(uids: Collection[str]) -> list[Owned]:
    """The processes of these pods, seen from outside of their namespaces."""
    marks = {f"CONCERTINA_UID={uid}".encode() for uid in uids}
    return _owned(lambda variables: not marks.isdisjoint(variables))


def signal_all(processes: Iterable[Owned], number: signal.Signals) -> None:
    """Send a signal to each of them."""
    for each in processes:
        each.signal(number)


def _owned(is_ours: Callable[[Collection[bytes]], bool]) -> list[Owned]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    found = (_described(pid, is_ours) for pid in pids)
    return [each for each in found if each is not None]


def _described(pid: int, is_ours: Callable[[Collection[bytes]], bool]) -> Owned | None:
    try:
        parts = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if not is_ours(parts):
            return None
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None  # it has ended
    process = Process.find(pid)
    if process is None:
        return None
    variables = dict(part.partition(b"=")[::2] for part in parts)
    return Owned(
        process=process,
        pod=os.fsdecode(variables.get(b"CONCERTINA_POD", b"")),
        uid=os.fsdecode(variables.get(b"CONCERTINA_UID", b"")),
        program=next((PROGRAMS[part] for part in command if part in PROGRAMS), ""),
    )
