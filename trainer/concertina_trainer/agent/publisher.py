"""Decides when a pod's report is sent, and where: to a file, or by report_object.py on Kubernetes.

The pod calls `Publisher.publish` in every turn with what report.py composed. `is_urgent` and
`is_due` are pure.
"""

import logging
from pathlib import Path
from typing import Protocol

from concertina_api.v1alpha1 import Progress, Report, SnapshotFacts, TrainingReport
from concertina_trainer.agent.mailbox import put

logger = logging.getLogger(__name__)

BURST = 5
PER_SECOND = 1.0
CLUSTER_PROGRESS_SECONDS = 30.0
FILE_PROGRESS_SECONDS = 0.5
_PROGRESS_FIELDS = {
    "time": None,
    "progress": None,
    "slow": (),
    "state_bytes": None,
    "peak_bytes": None,
}


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


def _news(report: Report) -> Report:
    """What is worth telling at once; of snapshots, whether there are any; that no step follows."""
    off = report.snapshot and SnapshotFacts(off=report.snapshot.off, fits=report.snapshot.fits)
    is_trained = report.progress is not None and report.progress.trained
    trained = Progress(step=0, samples=0, trained=True) if is_trained else None
    return report.model_copy(update={**_PROGRESS_FIELDS, "snapshot": off, "progress": trained})
