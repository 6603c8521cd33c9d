"""What is written of a status, and when: a merge patch, no more often than it is worth.

Called by the reconcile. Intentions are written at once, because actions follow them; numbers that
only people read wait, or a thousand jobs that train would keep the API server busy. Pure: no I/O,
no clock.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from concertina_api.merge_patch import merge_patch
from concertina_api.v1alpha1 import ConditionType, JobStatus

PROGRESS_INTERVAL: Final = timedelta(seconds=60)
COUNTS_INTERVAL: Final = timedelta(seconds=2)

_SECONDS: Final = frozenset({"gpuSeconds", "trainingGpuSeconds", "idleGpuSeconds", "gpuCountedAt"})
_CLOCKS: Final = _SECONDS | {"gpus"}
_PROGRESS: Final = frozenset({"progress", "snapshot", "usefulGpuSeconds"})
_TELLS_PROGRESS: Final = frozenset({ConditionType.SNAPSHOTS_TAKEN})
"""Conditions whose words change as training goes on."""
_COUNTED_PODS: Final = frozenset({"ready", "running", "outdated"})


def status_patch(before: JobStatus, after: JobStatus) -> dict[str, Any]:
    """The merge patch that turns the stored status into `after`; empty when nothing is new.

    The first one says everything, zeros too. Fields that this operator does not know, which a newer
    one wrote, are left alone.
    """
    return merge_patch(_written(before) if before != JobStatus() else {}, _written(after))


def is_only_time(patch: Mapping[str, Any]) -> bool:
    """Whether nothing is new but seconds that can be counted anew from what is stored."""
    return patch.keys() <= _SECONDS


def time_until_worth_it(
    patch: Mapping[str, Any], *, before: JobStatus, after: JobStatus, job_uid: str, now: datetime
) -> timedelta | None:
    """How long a patch may wait: zero or less means write it now, None that it never needs to be.

    The GPU clock is written with everything, so it tells when that was last; if it is ahead of ours,
    somebody else did, and nobody knows when.
    """
    fields = patch.keys() - _CLOCKS
    if not fields:
        return None
    written_at = before.gpu_counted_at
    if written_at is None or written_at > now or not _is_patient(patch, before=before, after=after):
        return timedelta(0)
    if _words(before) == _words(after):
        fields -= {"conditions"}
    interval = COUNTS_INTERVAL
    if fields <= _PROGRESS:
        interval = PROGRESS_INTERVAL * (1 + _jitter(job_uid) / 4)
    return written_at + interval - now


def _written(status: JobStatus) -> dict[str, Any]:
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def _is_patient(patch: Mapping[str, Any], *, before: JobStatus, after: JobStatus) -> bool:
    """Whether nothing but progress, counts of pods and words of conditions are new."""
    for name, value in patch.items():
        if name == "pods" and value.keys() <= _COUNTED_PODS:
            continue
        if name == "conditions" and _told(before) == _told(after):
            continue
        if name not in _CLOCKS | _PROGRESS:
            return False
    return True


def _told(status: JobStatus) -> list[tuple[str, str, str, int]]:
    return [
        (entry.type, entry.status, entry.reason, entry.observed_generation)
        for entry in status.conditions
    ]


def _words(status: JobStatus) -> list[tuple[str, str]]:
    return [
        (entry.type, entry.message)
        for entry in status.conditions
        if entry.type not in _TELLS_PROGRESS
    ]


def _jitter(job_uid: str) -> float:
    """From 0 to 1, always the same for a job: jobs that started together part."""
    return hashlib.sha256(job_uid.encode()).digest()[0] / 255
