"""Looks at all jobs for a scrape: what was planned of each, and when its pods were last heard.

Called by metrics.py, in the event loop, because nothing may change meanwhile; it takes microseconds
for a job. Pure: no I/O, no clock.
"""

from collections.abc import Iterator
from datetime import datetime

from concertina_operator.cluster.job_samples import JobView
from concertina_operator.cluster.observe import Watched
from concertina_operator.cluster.records import Record, Records, Use
from concertina_operator.cluster.store import Key
from concertina_operator.ledger import gpu_seconds, idle_gpu_seconds, training_gpu_seconds


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
    return JobView(
        key=key,
        status=record.status,
        samples_target=spec.samples if spec is not None else None,
        gpu_seconds=_gpu_seconds(record, now=now),
        held_gpu_seconds=gpu_seconds(record.status, now=now),
        avoid_node_after=spec.failure_policy.avoid_node_after if spec is not None else 0,
        refusals=dict(record.refusals),
        report_age_seconds=None if heard_at is None else max(loop_time - heard_at, 0.0),
        now=now,
    )


def _gpu_seconds(record: Record, *, now: datetime) -> dict[Use, float]:
    """GPU seconds of the newest plan, and those since then: no plan is made for them."""
    seconds = {
        Use.TRAINING: training_gpu_seconds(record.status, now=now),
        Use.IDLE: idle_gpu_seconds(record.status, now=now),
    }
    return {use: record.told(use, counted) for use, counted in seconds.items()}
