"""Remembers of each job what its metrics tell, as long as the job is there.

Filled by the reconcile and by the hands, read at a scrape (job_views.py). The newest status that was
planned is fresher than the stored one, which is written seldom; so GPU seconds are counted on from
there, as often as a plan is made. All of it may be lost: a new leader counts on from what is stored,
and refusals anew. Pure: no I/O, no clock.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from concertina_api.v1alpha1 import JobSpec, JobStatus
from concertina_operator.cluster.store import Key

_CLOCK: Final = (
    "gpus",
    "gpu_seconds",
    "training_gpu_seconds",
    "idle_gpu_seconds",
    "gpu_counted_at",
)
"""Fields of the status that count GPU seconds."""


class RefusedKind(StrEnum):
    """What may be refused of a job or for it."""

    POD = "Pod"
    MEMBERSHIP = "Membership"
    ROLE_BINDING = "RoleBinding"
    TEMPLATE = "Template"
    JOB = "Job"
    REPORT = "Report"


class Use(StrEnum):
    """What GPUs are held for."""

    TRAINING = "training"
    IDLE = "idle"


@dataclass(slots=True, kw_only=True)
class Record:
    """What is remembered of one job."""

    uid: str
    spec: JobSpec | None = None
    """None while it is invalid."""
    status: JobStatus = field(default_factory=JobStatus)
    """As it was planned last."""
    refusals: Counter[RefusedKind] = field(default_factory=Counter)
    gpu_seconds: dict[Use, float] = field(default_factory=dict)
    """As they were told last."""

    def told(self, use: Use, seconds: float) -> float:
        """GPU seconds to tell now: a counter never falls, whatever the estimate of today says."""
        self.gpu_seconds[use] = max(seconds, self.gpu_seconds.get(use, 0.0))
        return self.gpu_seconds[use]


class Records:
    """One record for each job that this process serves."""

    def __init__(self) -> None:
        self._records: dict[Key, Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def of(self, key: Key, *, uid: str) -> Record | None:
        """The record of a job, unless there is none or it is of an earlier job of that name."""
        record = self._records.get(key)
        return record if record is not None and record.uid == uid else None

    def counted(self, key: Key, *, uid: str, stored: JobStatus) -> JobStatus:
        """The stored status with the GPU seconds as they were counted last."""
        record, counted_at = self.of(key, uid=uid), stored.gpu_counted_at
        last = record.status if record is not None else stored
        if last.gpu_counted_at is None or (counted_at and counted_at >= last.gpu_counted_at):
            return stored
        return stored.model_copy(update={name: getattr(last, name) for name in _CLOCK})

    def planned(self, key: Key, *, uid: str, spec: JobSpec | None, status: JobStatus) -> None:
        """Takes what was planned."""
        record = self._record(key, uid=uid)
        record.spec, record.status = spec, status

    def refused(self, key: Key, *, uid: str, what: RefusedKind) -> None:
        """Counts a refusal."""
        self._record(key, uid=uid).refusals[what] += 1

    def forget(self, key: Key) -> None:
        """The job is gone, or is not to be served any more."""
        self._records.pop(key, None)

    def _record(self, key: Key, *, uid: str) -> Record:
        record = self.of(key, uid=uid)
        if record is None:
            record = self._records[key] = Record(uid=uid)
        return record
