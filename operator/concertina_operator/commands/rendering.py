"""Writes jobs of a cluster down for people: the table of `status`, the pages of `describe`.

Pure: no I/O, no clock.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import AdaptiveTrainingJob, ConditionType, JobStatus, Report
from concertina_operator.cluster.facts import read_status
from concertina_operator.cluster.pod import TEMPLATE_ANNOTATION
from concertina_operator.cluster.template import template_hash
from concertina_operator.commands.live import Document, LiveJob
from concertina_operator.conditions import condition
from concertina_operator.observed import Observed, PodFacts

_JOBS: Final = ("NAME", "STATE", "PODS", "BATCH", "STEP", "LOSS", "NOISE", "AGE")
_PODS: Final = ("NAME", "STATUS", "TRAINER", "ROUND", "NODE", "AGE")
_CONDITIONS: Final = ("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE")
_NOTHING: Final = "-"


def job_table(jobs: Sequence[Document], *, everywhere: bool, now: datetime) -> Iterator[str]:
    """One row per job; with a column for the namespace when there may be several."""
    head = ("NAMESPACE", *_JOBS) if everywhere else _JOBS
    rows = [_job_row(job, everywhere=everywhere, now=now) for job in jobs]
    yield from _table(head, rows)


def job_summary(job: Document) -> dict[str, Any]:
    """What `status` says of a job to programs."""
    metadata = job["metadata"]
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "created": metadata["creationTimestamp"],
        "suspend": bool(job["spec"].get("suspend")),
        "status": job.get("status") or {},
    }


def description(live: LiveJob, *, events: Iterable[Document], now: datetime) -> Iterator[str]:
    """Everything about one job, in sections; of a spec that cannot be read, why it cannot."""
    observed = None
    try:
        observed = live.observed()
        yield from _head(observed.job)
        yield from _old_templates(observed.job, live.pods)
    except InvalidJob as error:
        yield str(error)
    if observed is not None:
        yield from _traceback(observed.job)
    rows = [
        (
            entry.type.value,
            entry.status,
            entry.reason,
            age(entry.last_transition_time, now=now),
            entry.message,
        )
        for entry in read_status(live.job).conditions
    ]
    yield from _section(_CONDITIONS, rows)
    if observed is not None:
        yield from _pods_of(observed, live.pods, now=now)
    told = sorted(events, key=_event_time)
    yield from _section(
        ("LAST", "TYPE", "EVENT", "MESSAGE"), [_event_row(entry, now=now) for entry in told]
    )


def age(moment: datetime | None, *, now: datetime) -> str:
    """Time since the moment, in the largest unit that fits, as kubectl does."""
    if moment is None:
        return _NOTHING
    seconds = int(max(now - moment, timedelta(0)).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _job_row(job: Document, *, everywhere: bool, now: datetime) -> tuple[str, ...]:
    metadata = job["metadata"]
    status = read_status(job)
    progress = status.progress
    row = (
        metadata["name"],
        status.state or _NOTHING,
        f"{status.pods.ready}/{status.pods.wanted}",
        str(status.batch.effective or _NOTHING),
        str(progress.step),
        _number(progress.loss),
        _number(progress.noise_scale),
        age(datetime.fromisoformat(metadata["creationTimestamp"]), now=now),
    )
    return (metadata["namespace"], *row) if everywhere else row


def _head(job: AdaptiveTrainingJob) -> Iterator[str]:
    spec, status = job.spec, job.status
    yield f"{job.metadata.namespace}/{job.metadata.name}: {status.state or 'not seen yet'}"
    length = f"{spec.samples} samples" if spec.samples else f"{spec.epochs:g} epochs"
    progress = status.progress
    facts = {
        "model": spec.model,
        "batch": f"{status.batch.effective or spec.batch.initial} samples"
        f" (from {spec.batch.initial}, at most {spec.batch.max}) {status.batch.reason}",
        "pods": _pods(job),
        "round": f"{status.round}, {status.world_size} worker(s)",
        "progress": f"step {progress.step}, {progress.samples} of {length},"
        f" loss {_number(progress.loss)}, {_number(progress.samples_per_second)} samples/s",
        "resize": _resize(status),
        "snapshot": _snapshot(status),
        "recovery": _recovery(status),
        "failures": _failures(job),
        "mode": f"{spec.scaling.mode.value}{', suspended' if spec.suspend else ''}",
    }
    for name, text in facts.items():
        yield f"  {name:<10}{text}".rstrip()


def _pods(job: AdaptiveTrainingJob) -> str:
    counts, limits = job.status.pods, job.spec.pods
    granted = f", {counts.granted} granted" if counts.granted is not None else ""
    return f"{counts.ready} of {counts.wanted} ready ({limits.min} to {limits.max}{granted})"


def _resize(status: JobStatus) -> str:
    last = status.last_resize
    if last is None:
        return "none yet"
    took = f" in {last.pause_seconds:g} s" if last.pause_seconds is not None else ""
    return f"{last.from_world_size} to {last.to_world_size} workers{took}: {last.reason}"


def _snapshot(status: JobStatus) -> str:
    taken = status.snapshot
    if not taken.every_steps:
        found = condition(status, ConditionType.SNAPSHOTS_TAKEN)
        return f"none: {found.message}" if found is not None else "none yet"
    return f"step {taken.step}, every {taken.every_steps} steps, {100 * taken.cost:.2g} % of a step"


def _recovery(status: JobStatus) -> str:
    past = status.recoveries
    if not past.count:
        return "none needed yet"
    took = f" in {past.pause_seconds:.3g} s" if past.pause_seconds is not None else ""
    return f"{past.count}, {past.steps_lost} steps lost; the newest from {past.source}{took}"


def _failures(job: AdaptiveTrainingJob) -> str:
    seen, limit = job.status.failures, job.spec.failure_policy.backoff_limit
    beside = f", {seen.infrastructure} of the infrastructure" if seen.infrastructure else ""
    return f"{seen.count} of {limit}{beside} {seen.message}"


def _traceback(job: AdaptiveTrainingJob) -> Iterator[str]:
    if job.status.failures.traceback:
        yield ""
        yield "TRACEBACK of the newest failure"
        yield from job.status.failures.traceback.splitlines()


def _old_templates(job: AdaptiveTrainingJob, pods: Sequence[Document]) -> Iterator[str]:
    present = template_hash(job.spec)
    old = [
        pod["metadata"]["name"]
        for pod in pods
        if (pod["metadata"].get("annotations") or {}).get(TEMPLATE_ANNOTATION) != present
    ]
    if old:
        yield f"  {'template':<10}older than the job's in {len(old)} pod(s): {', '.join(old)}"


def _pods_of(observed: Observed, pods: Sequence[Document], *, now: datetime) -> Iterator[str]:
    nodes = {pod["metadata"]["name"]: pod["spec"].get("nodeName") for pod in pods}
    rows = [
        _pod_row(pod, observed.reports.get(pod.name), node=nodes[pod.name], now=now)
        for pod in observed.pods
    ]
    yield from _section(_PODS, rows)
    yield from (f"  {pod.message}" for pod in observed.pods if pod.message)


def _pod_row(
    pod: PodFacts, report: Report | None, *, node: str | None, now: datetime
) -> tuple[str, ...]:
    phase = "Terminating" if pod.deleting else pod.phase.value
    heard = report if report is not None and report.uid == pod.uid else None
    return (
        pod.name,
        phase if pod.exit_code is None else f"{phase} (exit {pod.exit_code})",
        heard.phase.value if heard else _NOTHING,
        str(heard.round) if heard else _NOTHING,
        node or _NOTHING,
        age(pod.created, now=now),
    )


def _event_time(event: Document) -> datetime:
    series = event.get("series") or {}
    moment = (
        series.get("lastObservedTime")
        or event.get("eventTime")
        or event.get("deprecatedLastTimestamp")
        or event["metadata"]["creationTimestamp"]
    )
    return datetime.fromisoformat(moment)


def _event_row(event: Document, *, now: datetime) -> tuple[str, ...]:
    times = (event.get("series") or {}).get("count", 1)
    note = event.get("note") or ""
    return (
        age(_event_time(event), now=now),
        event.get("type") or "",
        event.get("reason") or "",
        f"{note} (x{times})" if times > 1 else note,
    )


def _number(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.4g}"


def _section(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if rows:
        yield ""
        yield from _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip()
