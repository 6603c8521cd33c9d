"""Says why a worker ended and whether it may be started again.

Pure, but for `ended` and `last_lines`, which look at processes and at a log.
"""

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import Failure, FailureCause
from concertina_trainer.agent.mailbox import WorkerStatus

MAX_RESTARTS = 3
GOOD_STEPS = 1000
"""Restarts are counted over this many steps: MAX_RESTARTS within them are tolerated."""
_TAIL_BYTES = 4096
_MESSAGE_LENGTH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How the process of one worker ended."""

    local_rank: int
    code: int
    """Exit code, or minus the number of the signal that killed it."""


def ended(pids: Mapping[int, int]) -> tuple[End, ...]:
    """Workers of `pids` (local rank to process id) that have ended; they are left unreaped."""
    ends = []
    for local_rank, pid in pids.items():
        try:
            state = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # reaped already: torch has seen it end
            continue
        if state is not None:
            sign = 1 if state.si_code == os.CLD_EXITED else -1
            ends.append(End(local_rank=local_rank, code=sign * state.si_status))
    return tuple(ends)


def failure_of(
    ends: Sequence[End], *, statuses: Mapping[int, WorkerStatus], incarnation: str, lines: str
) -> Failure:
    """The failure to report when workers ended by themselves, at least one of them badly.

    The worker's own account is the best; `lines` are the last ones of the log of `culprit`.
    """
    end = culprit(ends)
    status = statuses.get(end.local_rank)
    told = status.failure if status else None
    if told is not None:
        permanent = told.permanent or end.code == InvalidJob.exit_code
        return told.model_copy(update={"permanent": permanent})
    if end.code == -signal.SIGKILL:
        lines = ""  # it came from outside: the log knows nothing of it
    if end.code < 0:
        cause, text = FailureCause.SIGNAL, f"killed by {_signal_name(-end.code)}"
    elif end.code == InvalidJob.exit_code:
        cause, text = FailureCause.INVALID_JOB, f"exit code {end.code}"
    else:
        cause, text = FailureCause.EXIT_CODE, f"exit code {end.code}"
    return Failure(
        round=status.round if status else 0,
        rank=status.rank if status else -1,
        incarnation=incarnation,
        cause=cause,
        message=_shortened(f"{text}: ", lines) if lines else text,
        permanent=cause is FailureCause.INVALID_JOB,
    )


def culprit(ends: Sequence[End]) -> End:
    """Of workers seen to end together: a killed one before those that only noticed it."""
    bad = [end for end in ends if end.code]
    return min(bad, key=lambda end: (end.code > 0, end.local_rank))


def may_restart(failed_steps: Sequence[int], *, step: int) -> bool:
    """Whether workers that failed at `step` are started again, after earlier failures.

    A failure counts as long as fewer than GOOD_STEPS steps were done since.
    """
    recent = [failed for failed in failed_steps if step - failed < GOOD_STEPS]
    return len(recent) < MAX_RESTARTS


def last_lines(path: Path, *, count: int = 5) -> str:
    """The last non-empty lines of a log; empty when there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


def _shortened(head: str, lines: str) -> str:
    """The end of a traceback says most."""
    return head + lines[-(_MESSAGE_LENGTH - len(head)) :]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
