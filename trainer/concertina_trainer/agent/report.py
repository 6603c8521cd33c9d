"""Composes the report of a pod and decides when to send it.

`compose` and the decisions are pure; `Publisher` is the only part with state, `ReportFile` the
only one that writes (on Kubernetes report_object.py takes its place). The pod calls
`Publisher.publish` in every turn.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from concertina_api.v1alpha1 import (
    Failure,
    Membership,
    PodPhase,
    Report,
    SnapshotFacts,
    TrainingReport,
)
from concertina_trainer.agent.mailbox import WorkerStatus, put

logger = logging.getLogger(__name__)

MAX_BYTES = 2048
BURST = 5
PER_SECOND = 1.0
CLUSTER_PROGRESS_SECONDS = 30.0
FILE_PROGRESS_SECONDS = 0.5
_MAX_SUSPECTS = 64
_LEAST_TRACEBACK = 256
_PROGRESS_FIELDS = {"time": None, "progress": None, "state_bytes": None, "peak_bytes": None}

# The pod is in the first of these phases that one of its workers is in.
_LEADING_PHASES = (
    PodPhase.FAILED,
    PodPhase.WAITING,
    PodPhase.STARTING,
    PodPhase.WARM,
    PodPhase.TRAINING,
    PodPhase.LEFT,
    PodPhase.FINISHED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFacts:
    """What the agent itself knows."""

    pod: str
    uid: str
    incarnation: str
    host: str
    port: int | None
    workers: int
    membership: Membership | None = None
    leaving: bool = False
    suspects: tuple[str, ...] = ()
    """Pods that do not answer the agent."""
    failure: Failure | None = None
    """The newest failure of a worker, also when others run by now."""
    given_up: bool = False
    """The workers are not started again."""


def compose(statuses: Sequence[WorkerStatus], facts: AgentFacts, *, now: datetime) -> Report:
    """The report of a pod from the statuses of its workers, in the order of local ranks.

    Statuses of an earlier incarnation are not counted. Local rank 0 speaks for the job (request,
    progress, acknowledgement, checkpoint, snapshot, slow pods) unless it is a worker of another rank
    than 0.
    """
    present = [status for status in statuses if status.incarnation == facts.incarnation]
    number = min((status.round for status in present), default=0)
    report = Report(
        pod=facts.pod,
        uid=facts.uid,
        incarnation=facts.incarnation,
        phase=_phase(present, facts),
        host=facts.host,
        port=facts.port,
        workers=facts.workers,
        round=number,
        leaving=facts.leaving,
        suspects=_suspects(present, number, facts),
        probe=facts.membership.probe if facts.membership else 0,
        failure=facts.failure or next((s.failure for s in present if s.failure), None),
        finished=len(present) == facts.workers and all(status.finished for status in present),
        state_bytes=max((s.state_bytes for s in present if s.state_bytes), default=None),
        peak_bytes=max((s.peak_bytes for s in present if s.peak_bytes), default=None),
        time=now,
    )
    if present and present[0].local_rank == 0 and present[0].rank <= 0:
        leader = present[0]
        report = report.model_copy(
            update={
                "request": leader.request,
                "progress": leader.progress,
                "acknowledged": leader.acknowledged,
                "checkpoint": leader.checkpoint,
                "snapshot": leader.snapshot,
                "slow": leader.slow,
            }
        )
    return _within_bounds(report)


def size_bytes(report: Report) -> int:
    """Size of a report as it is sent."""
    document = TrainingReport(spec=report)
    return len(document.model_dump_json(by_alias=True, exclude_none=True).encode())


def is_urgent(sent: Report | None, report: Report) -> bool:
    """Whether more than progress changed since the report that was sent last."""
    return sent is None or _news(sent) != _news(report)


def is_due(
    sent: Report | None, report: Report, *, elapsed_seconds: float, progress_seconds: float
) -> bool:
    """Whether progress changed and the last report is old enough to tell it."""
    changed = sent is None or sent.model_copy(update={"time": report.time}) != report
    return changed and elapsed_seconds >= progress_seconds


class ReportSink(Protocol):
    """Where reports go."""

    progress_seconds: float
    """Time between two reports that tell nothing but progress."""

    def send(self, report: Report) -> None:
        """Replace this pod's report. Raises OSError when that is impossible now."""

    def settled(self, *, within_seconds: float) -> bool:
        """Whether what was sent last is where it belongs; waits for that for a while."""


class ReportFile:
    """A report in a file, replaced by rename."""

    progress_seconds = FILE_PROGRESS_SECONDS

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def send(self, report: Report) -> None:
        """See ReportSink."""
        put(self._path, TrainingReport(spec=report))

    def settled(self, *, within_seconds: float) -> bool:
        """See ReportSink."""
        del within_seconds
        return True


class Publisher:
    """Sends what is urgent at once, one per second with a burst of five; the rest by and by."""

    def __init__(self, sink: ReportSink) -> None:
        self._sink = sink
        self._sent: Report | None = None
        self._sent_at = float("-inf")
        self._tokens = float(BURST)
        self._counted_at = float("-inf")

    def publish(self, report: Report, *, now: float) -> None:
        """Send `report` if it should be sent at `now` (monotonic seconds)."""
        self._tokens = min(BURST, self._tokens + (now - self._counted_at) * PER_SECOND)
        self._counted_at = now
        urgent = is_urgent(self._sent, report) and self._tokens >= 1
        due = is_due(
            self._sent,
            report,
            elapsed_seconds=now - self._sent_at,
            progress_seconds=self._sink.progress_seconds,
        )
        if urgent or due:
            self._tokens -= int(urgent)
            self.flush(report, now=now)

    def flush(self, report: Report, *, now: float) -> None:
        """Send `report` now; a sink that fails is tried again with the next report."""
        try:
            self._sink.send(report)
        except OSError as error:
            logger.warning("the report was not sent, trying again: %s", error)
            return
        self._sent = report
        self._sent_at = now


def _phase(present: Sequence[WorkerStatus], facts: AgentFacts) -> PodPhase:
    if facts.given_up:
        return PodPhase.FAILED
    if len(present) < facts.workers:
        return PodPhase.STARTING
    phases = {status.phase for status in present}
    return next(phase for phase in _LEADING_PHASES if phase in phases)


def _suspects(present: Sequence[WorkerStatus], number: int, facts: AgentFacts) -> tuple[str, ...]:
    names = {name for status in present if status.round == number for name in status.suspects}
    return tuple(sorted(names.union(facts.suspects) - {facts.pod}))[:_MAX_SUSPECTS]


def _news(report: Report) -> Report:
    """What is worth telling at once; of snapshots, whether there are any."""
    off = report.snapshot and SnapshotFacts(off=report.snapshot.off, fits=report.snapshot.fits)
    return report.model_copy(update={**_PROGRESS_FIELDS, "snapshot": off})


def _within_bounds(report: Report) -> Report:
    """Shorten the longest texts until the report fits into 2 KiB; numbers are never dropped."""
    for shorten in (_short_traceback, _short_failure, _short_reason, _few_suspects, _no_phases):
        if size_bytes(report) <= MAX_BYTES:
            break
        report = shorten(report)
    return report


def _short_traceback(report: Report) -> Report:
    """With the end of the traceback, which says most, as far as there is room."""
    if report.failure is None:
        return report
    told = report.failure.traceback
    cut = min(size_bytes(report) - MAX_BYTES, max(len(told) - _LEAST_TRACEBACK, 0))
    return report.model_copy(
        update={"failure": report.failure.model_copy(update={"traceback": told[cut:]})}
    )


def _short_failure(report: Report) -> Report:
    if report.failure is None:
        return report
    message = report.failure.message[-160:]
    return report.model_copy(
        update={"failure": report.failure.model_copy(update={"message": message})}
    )


def _short_reason(report: Report) -> Report:
    if report.request is None:
        return report
    reason = report.request.reason[:160]
    return report.model_copy(
        update={"request": report.request.model_copy(update={"reason": reason})}
    )


def _few_suspects(report: Report) -> Report:
    return report.model_copy(update={"suspects": report.suspects[:8]})


def _no_phases(report: Report) -> Report:
    if report.acknowledged is None:
        return report
    return report.model_copy(
        update={"acknowledged": report.acknowledged.model_copy(update={"phases": {}})}
    )
