"""Decides what the metrics say of a job: from its status and what is known of its pods to samples.

Called by collector.py at a scrape. Pure: no I/O, no clock. Every label has a closed set of values
here, whatever a status or a report says: one that is not in it is told as Other.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from concertina_api.v1alpha1 import ConditionType, JobStatus
from concertina_operator.cluster.metrics_table import OTHER
from concertina_operator.cluster.records import RefusedKind, Use
from concertina_operator.cluster.store import Key
from concertina_operator.conditions import condition
from concertina_operator.offences import avoided
from concertina_operator.rounds import RoundReason

STATES: Final = (
    "BackingOff",
    "Completed",
    "Failed",
    "Finishing",
    "Incompatible",
    "Invalid",
    "NameTaken",
    "Recommend",
    "Recovering",
    "Resizing",
    "Starting",
    "Suspended",
    "Suspending",
    "TemplateInvalid",
    "Training",
    "WaitingForGrant",
)
"""Every state of a job that a plan or the reconcile gives."""
_PAUSE: Final = ("greet", "open", "exchange", "build", "done", "commit", "begin")
"""Parts of a pause, as leaders tell them."""
PHASES: Final = ("gather", "finish", *_PAUSE, OTHER)
"""Phases of a resize, in their order."""
_REASONS: Final = frozenset(RoundReason)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """What is known of a job at a scrape."""

    key: Key
    status: JobStatus
    samples_target: int | None = None
    gpu_seconds: Mapping[Use, float] = field(default_factory=dict)
    held_gpu_seconds: float = 0.0
    """All of them, also those that were not told apart."""
    avoid_node_after: int = 0
    """See spec.failurePolicy; 0: never."""
    refusals: Mapping[RefusedKind, int] = field(default_factory=dict)
    report_age_seconds: float | None = None
    now: datetime


class Sample(NamedTuple):
    """One series: the metric's name, the values of its labels in the table's order, its value."""

    name: str
    labels: tuple[str, ...]
    value: float


def bounded(value: str, known: Collection[str]) -> str:
    """The value of a label, which is one of those that are known, or Other."""
    return value if value in known else OTHER


def fleet_samples(views: Iterable[JobView]) -> Iterator[Sample]:
    """All jobs together; a state that no job is in is told as 0."""
    found = Counter(bounded(view.status.state, STATES) for view in views)
    for state in (*STATES, OTHER):
        yield Sample("concertina_operator_jobs", (state,), found[state])


def job_samples(view: JobView) -> Iterator[Sample]:
    """Every series of one job."""
    job, status = tuple(view.key), view.status
    values = {
        "concertina_job_pods_wanted": status.pods.wanted,
        "concertina_job_pods_ready": status.pods.ready,
        "concertina_job_gpus_held": status.gpus,
        "concertina_job_useful_gpu_seconds": status.useful_gpu_seconds,
        "concertina_job_goodput_ratio": _goodput(view),
        "concertina_job_samples": status.progress.samples,
        "concertina_job_samples_target": view.samples_target,
        "concertina_job_batch_requested_samples": status.batch.requested,
        "concertina_job_failures_total": status.failures.total,
        "concertina_job_infrastructure_failures_total": status.failures.infrastructure,
        "concertina_job_recoveries_total": status.recoveries.count,
        "concertina_job_steps_lost_total": status.recoveries.steps_lost,
        "concertina_job_avoided_nodes": len(
            avoided(status.offences, after=view.avoid_node_after, now=view.now)
        ),
        "concertina_job_snapshot_age_steps": _snapshot_age_steps(status),
        "concertina_job_resizing_seconds": _resizing_seconds(status, now=view.now),
        "concertina_job_last_report_age_seconds": view.report_age_seconds,
    }
    for name, value in values.items():
        if value is not None:
            yield Sample(name, job, value)
    yield Sample("concertina_job_state", (*job, bounded(status.state, STATES)), 1)
    for entry in status.conditions:
        if entry.status != "Unknown":
            yield Sample("concertina_job_condition", (*job, entry.type), entry.status == "True")
    for use, seconds in view.gpu_seconds.items():
        yield Sample("concertina_job_gpu_seconds_total", (*job, use), seconds)
    for what in RefusedKind:
        yield Sample("concertina_job_refusals_total", (*job, what), view.refusals.get(what, 0))
    for kind, count in _resizes(status).items():
        yield Sample("concertina_job_resizes_total", (*job, *kind), count)


def phase_seconds(before: JobStatus, after: JobStatus) -> Mapping[str, float]:
    """Seconds of each phase of a resize that `before` did not know of; else nothing.

    A loss was not decided, so nothing was gathered for its round.
    """
    resize = after.last_resize
    if resize is None or resize == before.last_resize or resize.at is None:
        return {}
    pause = resize.pause_seconds or 0.0
    phases: dict[str, float] = {
        name: resize.phases[name] for name in _PAUSE if name in resize.phases
    }
    if (rest := pause - sum(phases.values())) > 0:
        phases[OTHER] = rest
    published = after.round_at
    if published is None or published > resize.at:
        return phases
    phases["finish"] = max((resize.at - published).total_seconds() - pause, 0.0)
    last = before.last_resize.at if before.last_resize is not None else None
    decided = after.scaled_at
    if decided is not None and decided <= published and (last is None or decided > last):
        phases["gather"] = (published - decided).total_seconds()
    return phases


def _goodput(view: JobView) -> float | None:
    """Share of the GPU seconds held that were spent in steps that counted.

    What is held is counted up to now, what was useful up to the newest report: it is never too high.
    """
    if view.held_gpu_seconds <= 0:
        return None
    return min(view.status.useful_gpu_seconds / view.held_gpu_seconds, 1.0)


def _snapshot_age_steps(status: JobStatus) -> int | None:
    snapshot = status.snapshot
    if snapshot.step is None or not snapshot.every_steps:
        return None
    return max(status.progress.step - snapshot.step, 0)


def _resizing_seconds(status: JobStatus, *, now: datetime) -> float:
    """How long a round has been open without a break."""
    resizing = condition(status, ConditionType.RESIZING)
    if resizing is None or resizing.status != "True" or resizing.last_transition_time is None:
        return 0.0
    return max((now - resizing.last_transition_time).total_seconds(), 0.0)


def _resizes(status: JobStatus) -> Mapping[tuple[str, str], int]:
    counts: Counter[tuple[str, str]] = Counter()
    for entry in status.resize_counts:
        counts[entry.direction, bounded(entry.reason, _REASONS)] += entry.count
    return counts
