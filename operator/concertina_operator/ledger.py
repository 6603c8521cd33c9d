"""Keeps the books of a job: request, progress, resizes and times, from accepted reports.

Called by situation.py before anything is decided. Pure: no I/O, no clock. Of several reports the
one that is furthest counts, since the leader can change with every round.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from concertina_api.batch import accumulation, num_micro_batches
from concertina_api.v1alpha1 import (
    BatchStatus,
    JobSpec,
    JobStatus,
    LastResize,
    Progress,
    ProgressStatus,
    Report,
    Resize,
)
from concertina_operator.acceptance import Standing


def reports_of(standings: Iterable[Standing]) -> tuple[Report, ...]:
    """Accepted reports of the job's pods, whether or not a round names them now."""
    return tuple(standing.report for standing in standings if standing.report is not None)


def batch_status(
    before: BatchStatus, *, spec: JobSpec, reports: Iterable[Report], world_size: int
) -> BatchStatus:
    """The newest accepted request; at a start the initial batch."""
    requests = [report.request for report in reports if report.request is not None]
    newest = max(requests, key=lambda request: request.sequence, default=None)
    if newest is not None and newest.sequence > before.sequence:
        requested, effective = newest.requested, newest.effective
        sequence, reason = newest.sequence, newest.reason
    else:
        requested = before.requested or spec.batch.initial
        effective = min(before.effective or spec.batch.initial, spec.batch.max)
        sequence, reason = before.sequence, before.reason or "initial batch"
    micro_batches = num_micro_batches(effective, spec.batch.micro_batch_size)
    return BatchStatus(
        requested=requested,
        effective=effective,
        accumulation=accumulation(micro_batches, max(world_size, 1)),
        sequence=sequence,
        reason=reason,
    )


def progress_status(
    before: ProgressStatus, *, spec: JobSpec, reports: Iterable[Report], now: datetime
) -> ProgressStatus:
    """The furthest progress of the newest round."""
    progress = newest_progress(reports)
    if progress is None:
        return before
    return ProgressStatus(
        step=progress.step,
        samples=progress.samples,
        loss=progress.loss,
        noise_scale=_printable(progress.noise_scale),
        samples_per_second=progress.samples_per_second,
        finishes_at=_finishes_at(progress, spec=spec, now=now),
    )


def newest_progress(reports: Iterable[Report]) -> Progress | None:
    """Progress of the newest round that has any, by its furthest step."""
    found = [report.progress for report in reports if report.progress is not None]
    return max(found, key=lambda progress: (progress.round, progress.step), default=None)


def newest_resize(reports: Iterable[Report]) -> Resize | None:
    """The acknowledgement of the newest round."""
    found = [report.acknowledged for report in reports if report.acknowledged is not None]
    return max(found, key=lambda resize: resize.round, default=None)


def committed_round(before: int, reports: Iterable[Report]) -> int:
    """The newest round that is known to be committed."""
    known = tuple(reports)
    resize, progress = newest_resize(known), newest_progress(known)
    return max(before, resize.round if resize else 0, progress.round if progress else 0)


def last_resize(
    before: JobStatus, *, reports: Iterable[Report], reason: str, now: datetime
) -> tuple[LastResize | None, int]:
    """The newest resize and how many there were, when a round was newly acknowledged."""
    resize = newest_resize(reports)
    if resize is None or resize.round <= before.committed_round:
        return before.last_resize, before.resizes
    if resize.world_size_before in (0, resize.world_size):  # a start, or a loss that was replaced
        return before.last_resize, before.resizes
    newest = LastResize(
        from_world_size=resize.world_size_before,
        to_world_size=resize.world_size,
        reason=reason[:512],
        pause_seconds=resize.pause_seconds,
        phases=dict(resize.phases),
        at=now,
    )
    return newest, before.resizes + 1


def gpu_seconds(
    before: JobStatus, *, standings: Iterable[Standing], workers_per_pod: int, now: datetime
) -> float:
    """Seconds that pods held GPUs, up to now: from their placing on a node to their trainer's end."""
    if before.gpu_counted_at is None:
        return before.gpu_seconds
    elapsed = max((now - before.gpu_counted_at).total_seconds(), 0.0)
    holding = sum(pod.placed and not pod.ended for pod in (entry.pod for entry in standings))
    return round(before.gpu_seconds + holding * workers_per_pod * elapsed, 3)


def active_time(before: JobStatus, *, now: datetime) -> timedelta:
    """How long the job was active: the time while it was suspended does not count."""
    running = now - before.active_since if before.active_since is not None else timedelta(0)
    return timedelta(seconds=before.active_seconds) + running


def _printable(value: float | None) -> float | None:
    """An estimate with the digits that mean anything; `kubectl get` prints all there are."""
    return None if value is None else float(f"{value:.4g}")


def _finishes_at(progress: Progress, *, spec: JobSpec, now: datetime) -> datetime | None:
    if spec.samples is None or not progress.samples_per_second:
        return None
    seconds = max(spec.samples - progress.samples, 0) / progress.samples_per_second
    if seconds > timedelta(days=36500).total_seconds():
        return None
    return (now + timedelta(seconds=seconds)).replace(microsecond=0)
