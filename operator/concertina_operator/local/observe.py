"""Reads the facts that a plan is computed from: processes, reports and the membership.

Reports come from programs that the user may have written: a report is taken only when it is small,
valid and about the pod whose file it is; else the pod's last good one stands.
"""

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from concertina_api.v1alpha1 import (
    AdaptiveTrainingJob,
    Membership,
    Report,
    TrainingMembership,
    TrainingReport,
)
from concertina_operator.local.directory import RunDirectory
from concertina_operator.local.pods import LocalPods
from concertina_operator.observed import Observed, PodFacts

MAX_REPORT_BYTES: Final = 16 * 1024

_Stamp = tuple[int, ...]


class Reports:
    """The newest valid report of each pod, read again only when its file was replaced."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._seen: dict[str, tuple[_Stamp, Report | None]] = {}

    def read(self, pods: tuple[PodFacts, ...]) -> dict[str, Report]:
        """Reports by pod name, of these pods alone."""
        self._seen = {pod.name: seen for pod in pods if (seen := self._newest(pod)) is not None}
        return {name: report for name, (_, report) in self._seen.items() if report is not None}

    def _newest(self, pod: PodFacts) -> tuple[_Stamp, Report | None] | None:
        path = self._directory.report(pod.name)
        stamp, last = self._seen.get(pod.name, ((), None))
        if last is not None and last.uid != pod.uid:
            last = None
        try:
            status = path.stat()
        except OSError:
            return (stamp, last) if last is not None else None
        # A file system may give two files in a row the same time, and the same number.
        newest = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
        if newest == stamp:
            return stamp, last
        report = read_report(path)
        about = report is not None and (report.pod, report.uid) == (pod.name, pod.uid)
        return newest, report if about else last


def read_report(path: Path) -> Report | None:
    """The report in the file, or None when there is no valid one of bounded size."""
    content = _bounded(path, limit=MAX_REPORT_BYTES)
    if content is None:
        return None
    try:
        return TrainingReport.model_validate_json(content).spec
    except ValidationError:
        return None


def read_membership(path: Path) -> Membership | None:
    """The membership in the file, or None when there is no valid one."""
    try:
        return TrainingMembership.model_validate_json(path.read_bytes()).spec
    except (OSError, ValidationError):
        return None


def observe(
    job: AdaptiveTrainingJob, *, directory: RunDirectory, pods: LocalPods, reports: Reports
) -> Observed:
    """What is known now. `job.status` is the status of the previous plan."""
    facts = pods.facts()
    return Observed(
        job=job,
        membership=read_membership(directory.membership),
        reports=reports.read(facts),
        pods=facts,
    )


def _bounded(path: Path, *, limit: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError:
        return None
    return content if len(content) <= limit else None
