"""Looks at all jobs for a scrape: what was planned of each, and what the stores know of its pods.

Called by metrics.py, in the event loop, because nothing may change meanwhile; it takes microseconds
for a job. Pure: no I/O, no clock.
"""

from collections.abc import Iterator
from datetime import datetime

from concertina_operator.cluster.job_samples import JobView
from concertina_operator.cluster.observe import Watched
from concertina_operator.cluster.records import Record, Records, Use
from concertina_operator.cluster.store import Key
from concertina_operator.ledger import counted_on, holds_gpus, training_members


def job_views(
    watched: Watched, records: Records, *, now: datetime, loop_time: float
) -> Iterator[JobView]:
    """Every job that is there and was planned; `loop_time` is the event loop's."""
    for key in watched.jobs.all_keys():
        document = watched.jobs.get(key)
        if document is None:
            continue
        record = records.of(key, uid=document["metadata"]["uid"])
        if record is not None:
            yield _view(key, record, watched, now=now, loop_time=loop_time)


def _view(
    key: Key, record: Record, watched: Watched, *, now: datetime, loop_time: float
) -> JobView:
    spec, heard_at = record.spec, watched.heard_at(key, job_uid=record.uid)
    held, training = _gpus(key, record, watched)
    return JobView(
        key=key,
        status=record.status,
        samples_target=spec.samples if spec is not None else None,
        gpus_held=held if spec is not None else None,
        gpu_seconds=_gpu_seconds(record, held=held, training=training, now=now),
        refusals=dict(record.refusals),
        report_age_seconds=None if heard_at is None else max(loop_time - heard_at, 0.0),
        now=now,
    )


def _gpus(key: Key, record: Record, watched: Watched) -> tuple[int, int]:
    """GPUs that the job holds, and those of them that train."""
    if record.spec is None:
        return 0, 0
    stored = watched.memberships.get(key)
    is_ours = stored is not None and stored.owner == record.uid
    members = training_members(
        record.status, stored.membership if stored is not None and is_ours else None
    )
    pods = [pod.facts for pod in watched.pods_of(key, job_uid=record.uid).values()]
    held = [pod for pod in pods if holds_gpus(pod)]
    number = record.spec.pods.workers_per_pod
    return number * len(held), number * sum(pod.uid in members for pod in held)


def _gpu_seconds(record: Record, *, held: int, training: int, now: datetime) -> dict[Use, float]:
    """GPU seconds of the status, and those since then, because it is not written for them."""
    status = record.status
    total = counted_on(status.gpu_seconds, status, num_gpus=held, now=now)
    used = counted_on(status.training_gpu_seconds, status, num_gpus=training, now=now)
    return {
        Use.TRAINING: record.told(Use.TRAINING, used),
        Use.IDLE: record.told(Use.IDLE, max(total - used, 0.0)),
    }
