"""Ends every process that carries a mark in its environment, whatever its session or parent.

Workers run in sessions of their own (torch's elastic agent starts them so), and a killed agent
leaves them to init; neither process groups nor parents find them. The environment does: it is
inherited by all that an agent starts. The shell uses `end_marked` for one pod and at its end;
as a program (`python -m concertina_operator.local.sweeper NAME VALUE`) this module waits until its
standard input closes, which happens when the shell ends, even by kill -9, and then sweeps.
"""

import os
import signal
import sys
import time
from pathlib import Path

_PROC = Path("/proc")
_PAUSE_SECONDS = 0.02


def end_marked(name: str, value: str, *, timeout_seconds: float = 10.0) -> int:
    """Kills the processes with `name=value` in their environment until none is left.

    Returns how many are still there at the deadline: 0 unless the kernel holds one back.
    """
    deadline = time.monotonic() + timeout_seconds
    while alive := _kill_marked(f"{name}={value}".encode()):
        if time.monotonic() > deadline:
            return alive
        time.sleep(_PAUSE_SECONDS)
    return 0


def _kill_marked(mark: bytes) -> int:
    """How many were found, and killed, in one pass."""
    own = os.getpid()
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())
    return sum(_kill_if_marked(pid, mark) for pid in pids if pid != own)


def _kill_if_marked(pid: int, mark: bytes) -> bool:
    try:
        # The descriptor is opened before the look: the number may by then be another process.
        process = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # A process that has ended, reaped or not, has no environment.
        if mark not in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(process)
    return True


def main(name: str, value: str) -> None:
    """Waits for the end of the process that holds the other end of standard input."""
    # The keyboard's signals are the shell's to answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_marked(name, value)


if __name__ == "__main__":
    main(*sys.argv[1:])
