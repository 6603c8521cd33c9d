"""Says why a worker ended and whether it may be started again. Called by the pod.

Pure, but for `ended`, `last_lines` and `Inquest`, which look at processes, at files and at the
pod's memory. What a cause means is in causes.py.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import Failure, FailureCause
from concertina_trainer.agent.mailbox import WorkerStatus, samples_file
from concertina_trainer.agent.settings import Settings
from concertina_trainer.agent.under_way import samples_under_way
from concertina_trainer.causes import LONGEST_MESSAGE, cause_of_signal, out_of_memory, signal_name
from concertina_trainer.pod_memory import PodMemory

MAX_RESTARTS = 3
GOOD_STEPS = 1000
"""Restarts are counted over this many steps: MAX_RESTARTS within them are tolerated."""
_TAIL_BYTES = 4096


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a worker's end besides its exit code and its own account."""

    lines: str = ""
    """The last ones of its log."""
    samples: range | None = None
    """Samples that it was working on."""
    memory_kills: int = 0
    """Processes of the pod that were killed for lack of memory since the workers started."""
    limit_bytes: int | None = None
    """Memory that the pod may use."""


def failure_of(
    ends: Sequence[End],
    *,
    statuses: Mapping[int, WorkerStatus],
    incarnation: str,
    evidence: Evidence,
) -> Failure:
    """The failure to report when workers ended by themselves, at least one of them badly.

    The worker's own account is the best; `evidence` is about the `culprit`.
    """
    end = culprit(ends)
    status = statuses.get(end.local_rank)
    told = status.failure if status else None
    if told is None:
        told = _untold(end, status, incarnation=incarnation, evidence=evidence)
    elif end.code == InvalidJob.exit_code:
        told = told.model_copy(update={"permanent": True})
    if evidence.memory_kills and told.cause is FailureCause.INFRASTRUCTURE:
        # The worker, or a process that loads its data, was killed because the pod had no more.
        sizes = out_of_memory(
            told.message,
            held_bytes=status.peak_bytes if status else None,
            limit_bytes=evidence.limit_bytes,
            where="the pod",
        )
        message = f"{told.message}: {sizes}"[:LONGEST_MESSAGE]
        told = told.model_copy(update={"cause": FailureCause.OUT_OF_MEMORY, "message": message})
    return told


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


class Inquest:
    """Gathers evidence; it knows from when on it counts."""

    def __init__(self, settings: Settings, *, memory: PodMemory | None = None) -> None:
        self._settings = settings
        self._memory = memory or PodMemory.of_this_process()
        self._kills_before = self._memory.kills()

    def begin(self) -> None:
        """Workers are about to start."""
        self._kills_before = self._memory.kills()

    def evidence(self, incarnation: str, local_rank: int) -> Evidence:
        """What is known of the worker that has ended."""
        log = self._settings.worker_log(incarnation, local_rank, "stderr")
        return Evidence(
            lines=last_lines(log),
            samples=samples_under_way(samples_file(self._settings.mailbox, local_rank)),
            memory_kills=self._memory.kills() - self._kills_before,
            limit_bytes=self._memory.limit_bytes(),
        )


def _untold(
    end: End, status: WorkerStatus | None, *, incarnation: str, evidence: Evidence
) -> Failure:
    """What the end itself says."""
    samples, lines = evidence.samples, evidence.lines
    if end.code < 0:
        cause, text = cause_of_signal(-end.code), f"killed by {signal_name(-end.code)}"
    elif end.code == InvalidJob.exit_code:
        cause, text = FailureCause.INVALID_JOB, f"exit code {end.code}"
    else:
        cause, text = FailureCause.EXIT_CODE, f"exit code {end.code}"
    if cause is FailureCause.INFRASTRUCTURE:
        lines = ""  # it came from outside: the log knows nothing of it
    return Failure(
        round=status.round if status else 0,
        rank=status.rank if status else -1,
        incarnation=incarnation,
        cause=cause,
        message=_shortened(f"{text}: ", lines) if lines else text,
        permanent=cause is FailureCause.INVALID_JOB,
        first_sample=samples.start if samples else None,
        num_samples=len(samples or ()),
    )


def _shortened(head: str, lines: str) -> str:
    """The end of a log says most."""
    return head + lines[-(LONGEST_MESSAGE - len(head)) :]
