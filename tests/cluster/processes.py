"""Processes by identity: a number alone may be another process's by the time it is used."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process, told from a later one of the same number by when it started."""

    pid: int
    started: int
    """In clock ticks since the machine started."""

    @classmethod
    def find(cls, pid: int) -> "Process | None":
        """The process that has this number now; None if there is none, or only its remains."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else cls(pid=pid, started=int(fields[19]))

    def is_alive(self) -> bool:
        return Process.find(self.pid) == self

    def kill(self) -> None:
        """End it; nothing happens if it has ended."""
        if self.is_alive():
            os.kill(self.pid, signal.SIGKILL)

    def children(self) -> "tuple[Process, ...]":
        """The processes that it started and that are alive."""
        try:
            listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return ()
        found = (Process.find(int(pid)) for pid in listed)
        return tuple(process for process in found if process is not None)


def reap(pid: int) -> None:
    """Take the exit code of a child that ended, so that it does not stay as a zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # another process started it
