"""Finds workers that give no sign of life any more although their processes exist.

A worker that is stopped, or that the kernel holds for ever, blocks all others and ends nothing.
So a thread of its own (rounds/watch.py) touches a file as long as the process runs at all; the
agent looks at that file in each of its turns (pod.py) and kills a worker that is silent for too
long. One that uses the processor meanwhile is at work in a call that lets no other thread run, as
an import or a compiler may, and gets far more time.

`Pulse` is pure; the rest looks at files.
"""

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from concertina_api.v1alpha1 import Failure, FailureCause, PodPhase
from concertina_trainer.agent.mailbox import WorkerStatus

logger = logging.getLogger(__name__)

SILENT_SECONDS = 6.0
"""Longest time without a sign of life and without use of the processor."""
BUSY_SECONDS = 120.0
"""Longest time without a sign of life."""
KILL_SECONDS = 10.0
"""Time in which a silent worker should have ended once it was killed."""
_LONGEST_TURN_SECONDS = 1.0


@dataclass(slots=True)
class Pulse:
    """Signs of life of one worker, as its agent sees them."""

    silent_seconds: float = 0.0
    """Time without a beat; an agent that was stopped itself counts no more than a second."""
    idle_seconds: float = 0.0
    """The part of it in which the worker did not use the processor either."""
    _beat: int | None = None
    _ticks: int | None = None
    _taken_at: float | None = None

    def take(self, beat: int | None, ticks: int | None, *, now: float) -> None:
        """Note the newest beat and the processor time, as seen at `now` in monotonic seconds.

        `beat` None: the worker does not beat, or not any more because it comes to its end.
        """
        before = now if self._taken_at is None else self._taken_at
        elapsed = min(now - before, _LONGEST_TURN_SECONDS)
        if beat is None or beat != self._beat:
            self.silent_seconds = self.idle_seconds = 0.0
        else:
            self.silent_seconds += elapsed
            self.idle_seconds = self.idle_seconds + elapsed if ticks == self._ticks else 0.0
        self._beat, self._ticks, self._taken_at = beat, ticks, now

    @property
    def is_gone(self) -> bool:
        """Whether nothing can be expected of the worker any more."""
        return self.idle_seconds >= SILENT_SECONDS or self.silent_seconds >= BUSY_SECONDS

    @property
    def outlives_its_kill(self) -> bool:
        """Whether it is still there a while after it should have been killed."""
        limits = (self.idle_seconds - SILENT_SECONDS, self.silent_seconds - BUSY_SECONDS)
        return max(limits) >= KILL_SECONDS


class Pulses:
    """Signs of life of all workers of a pod, from one start to the next."""

    def __init__(self, mailbox: Path) -> None:
        self._mailbox = mailbox
        self._pulses: dict[int, Pulse] = {}
        self.silent: dict[int, str] = {}
        """Local ranks of workers to be killed, and what is told of each."""
        self.hopeless = False
        """A silent worker cannot be killed."""

    def feel(self, statuses: Iterable[WorkerStatus], *, now: float) -> None:
        """Take the pulse of each worker; before it is warm, it may be busy for long."""
        for status in statuses:
            if status.phase is PodPhase.STARTING:
                continue
            pulse = self._pulses.setdefault(status.local_rank, Pulse())
            path = heartbeat_file(self._mailbox, status.local_rank)
            pulse.take(newest_beat(path), processor_ticks(status.pid), now=now)
            if pulse.is_gone and status.local_rank not in self.silent:
                told = f"it gave no sign of life for {pulse.silent_seconds:.0f} s and was killed"
                self.silent[status.local_rank] = told
                logger.error("worker %d in round %d: %s", status.rank, status.round, told)
            if pulse.outlives_its_kill and not self.hopeless:
                self.hopeless = True
                logger.error("worker %d is still there: the pod is given up", status.rank)

    def explained(self, failure: Failure, local_rank: int) -> Failure:
        """The failure of a worker, as one of the machine if it was killed for its silence."""
        told = self.silent.get(local_rank)
        if told is None:
            return failure
        return failure.model_copy(update={"cause": FailureCause.INFRASTRUCTURE, "message": told})


def heartbeat_file(mailbox: Path, local_rank: int) -> Path:
    """The file that a worker touches."""
    return mailbox / f"heartbeat-{local_rank}"


def beat(path: Path) -> None:
    """Give a sign of life; a folder that cannot be written to is none."""
    with contextlib.suppress(OSError):
        path.touch()


def newest_beat(path: Path) -> int | None:
    """Something that differs after each beat; None when the worker does not beat."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def processor_ticks(pid: int) -> int | None:
    """Processor time that a process has used, in clock ticks; None when there is no such process.

    Fields 14 and 15 of proc_pid_stat(5); the name before them may hold spaces.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[11]) + int(fields[12])
