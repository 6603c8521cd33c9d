"""Ends a worker together with its agent, also when the agent is killed with SIGKILL.

The worker program calls `die_with_parent` first thing. No torch import.
"""

import ctypes
import os
import signal

AGENT_PID = "CONCERTINA_AGENT_PID"
"""Environment variable by which the agent tells its workers its process id."""
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Let the kernel send this process SIGKILL when its agent ends (Linux prctl(2)).

    The kernel watches the parent's *thread* that started this process: agents start workers from
    their main thread. Without an agent (the variable is not set) nothing happens.
    """
    agent = os.environ.get(AGENT_PID)
    if agent is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    # An agent that ended before the call above is not noticed by the kernel any more.
    if os.getppid() != int(agent):
        os.kill(os.getpid(), signal.SIGKILL)
