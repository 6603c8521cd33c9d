"""Keeps the books of a job: request, progress, resizes and times, from accepted reports.

Called by situation.py before anything is decided. Pure: no I/O, no clock. Of several reports the
one that is furthest counts, since the leader can change with every round.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from concertina_api.batch import accumulation, num_micro_batches
from concertina_api.v1alpha1 import (
    BatchStatus,
    ConditionType,
    Direction,
    JobSpec,
    JobStatus,
    LastResize,
    Progress,
    ProgressStatus,
    Report,
    Resize,
    ResizeCount,
)
from concertina_operator.acceptance import Standing
from concertina_operator.conditions import holds
from concertina_operator.observed import PodFacts


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
    resize = _new_resize(before, reports)
    if resize is None or _direction(resize) is Direction.REPLACE:
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


def resize_counts(
    before: JobStatus, *, reports: Iterable[Report], reason: str
) -> tuple[ResizeCount, ...]:
    """Resizes by direction and reason, when a round that was published for `reason` is there."""
    resize = _new_resize(before, reports)
    if resize is None:
        return before.resize_counts
    kind = (_direction(resize), reason)
    counts = {(entry.direction, entry.reason): entry.count for entry in before.resize_counts}
    counts[kind] = counts.get(kind, 0) + 1
    return tuple(
        ResizeCount(direction=direction, reason=why, count=count)
        for (direction, why), count in sorted(counts.items())
    )


def gpu_clock(
    before: JobStatus, *, pods: Iterable[PodFacts], workers_per_pod: int, now: datetime
) -> Mapping[str, Any]:
    """Fields of a status that count GPU seconds: what is held from now on, and what was up to now."""
    return {
        "gpus": gpus_held(pods, workers_per_pod=workers_per_pod),
        "gpu_seconds": gpu_seconds(before, now=now),
        "training_gpu_seconds": training_gpu_seconds(before, now=now),
        "idle_gpu_seconds": idle_gpu_seconds(before, now=now),
        "gpu_counted_at": now,
    }


def gpus_held(pods: Iterable[PodFacts], *, workers_per_pod: int) -> int:
    """GPUs that nodes keep for pods: from their placing on a node to their trainer's end."""
    return workers_per_pod * sum(pod.placed and not pod.ended for pod in pods)


def gpu_seconds(before: JobStatus, *, now: datetime) -> float:
    """Seconds that pods held GPUs, up to now.

    Since they were last counted as many were held as then: a change is planned for at once.
    """
    return _counted_on(before.gpu_seconds, before, num_gpus=before.gpus, now=now)


def training_gpu_seconds(before: JobStatus, *, now: datetime) -> float:
    """The part of them held by members of a round that trained."""
    num_gpus = _training_gpus(before)
    return _counted_on(before.training_gpu_seconds, before, num_gpus=num_gpus, now=now)


def idle_gpu_seconds(before: JobStatus, *, now: datetime) -> float:
    """The part of them held by other pods, or while no round trained.

    Not what training leaves of them: a status may have counted before it told the two apart.
    """
    num_gpus = before.gpus - _training_gpus(before)
    return _counted_on(before.idle_gpu_seconds, before, num_gpus=num_gpus, now=now)


def active_time(before: JobStatus, *, now: datetime) -> timedelta:
    """How long the job was active: the time while it was suspended does not count."""
    running = now - before.active_since if before.active_since is not None else timedelta(0)
    return timedelta(seconds=before.active_seconds) + running


def _training_gpus(status: JobStatus) -> int:
    """GPUs held by members of a round that trains."""
    trains = holds(status, ConditionType.READY)
    return min(status.world_size, status.gpus) if trains else 0


def _new_resize(before: JobStatus, reports: Iterable[Report]) -> Resize | None:
    """The newest acknowledged round, unless it was counted before or is a start."""
    resize = newest_resize(reports)
    if resize is None or resize.round <= before.committed_round or not resize.world_size_before:
        return None
    return resize


def _direction(resize: Resize) -> Direction:
    if resize.world_size == resize.world_size_before:
        return Direction.REPLACE
    return Direction.GROW if resize.world_size > resize.world_size_before else Direction.SHRINK


def _counted_on(seconds: float, before: JobStatus, *, num_gpus: int, now: datetime) -> float:
    """Seconds of GPUs with those since they were last counted, when so many were held."""
    if before.gpu_counted_at is None:
        return seconds
    elapsed = max((now - before.gpu_counted_at).total_seconds(), 0.0)
    return round(seconds + num_gpus * elapsed, 3)


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
