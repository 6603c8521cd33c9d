"""The concertina_* metrics of a pod, as Prometheus reads them (endpoint.py serves them).

METRICS is the table that code, README and dashboards share. A `Tally` turns what workers tell
into numbers that outlive them: counters never fall, whatever is resized, restarted or rolled
back. The registry asks the tally when it is scraped, so nothing is exported twice or late.

Series about the job are exported by the pod that leads and vanish from a pod that does not, so
that a sum over pods is the job's number.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from concertina_api.v1alpha1 import Progress
from concertina_trainer.agent.mailbox import WorkerStatus

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table."""

    name: str
    type: Literal["counter", "gauge"]
    unit: str
    help: str


METRICS = (
    Metric("concertina_loss", "gauge", "", "Training loss of the newest step."),
    Metric("concertina_samples_total", "counter", "samples", "Samples trained."),
    Metric("concertina_steps_total", "counter", "steps", "Optimizer steps taken."),
    Metric("concertina_skipped_steps_total", "counter", "steps", "Steps that were not finite."),
    Metric("concertina_samples_per_second", "gauge", "samples/s", "Throughput of training."),
    Metric("concertina_step_seconds", "gauge", "s", "Duration of the newest step."),
    Metric(
        "concertina_global_batch_requested_samples",
        "gauge",
        "samples",
        "Global batch that the rule asks for.",
    ),
    Metric(
        "concertina_global_batch_effective_samples",
        "gauge",
        "samples",
        "Global batch that runs, after cap and grid.",
    ),
    Metric("concertina_noise_scale_samples", "gauge", "samples", "Gradient noise scale."),
    Metric("concertina_world_size", "gauge", "workers", "Workers of the round."),
    Metric("concertina_round", "gauge", "", "Number of the round that the workers are in."),
    Metric("concertina_resizes_total", "counter", "resizes", "Rounds committed after the first."),
    Metric(
        "concertina_resize_pause_seconds_total",
        "counter",
        "s",
        "Time between the last step of a round and the first of the next, over all resizes.",
    ),
    Metric("concertina_last_resize_pause_seconds", "gauge", "s", "Pause of the newest resize."),
    Metric(
        "concertina_last_resize_phase_seconds",
        "gauge",
        "s",
        "Parts of that pause, by label phase.",
    ),
    Metric(
        "concertina_micro_batches_recomputed_total",
        "counter",
        "micro-batches",
        "Micro-batches run again because a leave could not wait for their step.",
    ),
    Metric(
        "concertina_checkpoint_blocking_seconds",
        "gauge",
        "s",
        "Time that training waited for the newest checkpoint.",
    ),
    Metric("concertina_worker_restarts_total", "counter", "restarts", "Starts after a failure."),
    Metric(
        "concertina_worker_state_bytes",
        "gauge",
        "bytes",
        "Parameters and optimizer state of the largest worker of the pod.",
    ),
    Metric(
        "concertina_worker_peak_bytes", "gauge", "bytes", "Largest memory of a worker of the pod."
    ),
)
"""Every metric of the trainer, with labels namespace and job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Values of all metrics at one time, by name; a metric without a value is absent."""

    values: dict[str, float] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """How far the counters of one worker process have been added up."""

    samples: int = 0
    micro_batches: int = 0
    progress: Progress | None = None


class Tally:
    """Adds up what workers tell over all their incarnations."""

    def __init__(self) -> None:
        self._totals = {metric.name: 0.0 for metric in METRICS if metric.type == "counter"}
        self._seen: dict[tuple[str, int], _Seen] = {}
        self._acknowledged_round = 0
        self.reading = Reading(values=dict(self._totals))
        """The newest reading; replaced as a whole, so a scrape in another thread sees one."""
        self.is_ready = False
        """Whether the workers are warm, or train."""

    def update(
        self, statuses: Sequence[WorkerStatus], *, restarts: int, is_ready: bool = False
    ) -> None:
        """Take the statuses of the workers that run now and the restarts so far."""
        self.is_ready = is_ready
        for status in statuses:
            self._count(status)
        self._totals["concertina_worker_restarts_total"] = float(restarts)
        leaders = [status for status in statuses if status.rank == 0]
        values = self._totals | _pod_values(statuses)
        if leaders:
            values |= _job_values(leaders[0])
        resize = leaders[0].acknowledged if leaders else None
        self.reading = Reading(values=values, phases=dict(resize.phases) if resize else {})

    def _count(self, status: WorkerStatus) -> None:
        key = (status.incarnation, status.local_rank)
        seen = self._seen.get(key, _Seen())
        self._add("concertina_samples_total", status.samples_trained - seen.samples)
        self._add(
            "concertina_micro_batches_recomputed_total",
            status.recomputed_micro_batches - seen.micro_batches,
        )
        if status.rank == 0 and status.progress is not None:
            self._count_progress(status, status.progress, seen.progress)
        resize = status.acknowledged
        if resize is not None and resize.round > self._acknowledged_round:
            self._acknowledged_round = resize.round
            if resize.world_size_before:  # else the job starts: nothing was resized
                self._add("concertina_resizes_total", 1)
                self._add("concertina_resize_pause_seconds_total", resize.pause_seconds)
        self._seen[key] = replace(
            seen,
            samples=status.samples_trained,
            micro_batches=status.recomputed_micro_batches,
            progress=status.progress if status.rank == 0 else None,
        )

    def _count_progress(
        self, status: WorkerStatus, progress: Progress, before: Progress | None
    ) -> None:
        """Steps since the last look; a worker that begins to lead counts from its round's start."""
        skipped = before.skipped_steps if before else progress.skipped_steps
        self._add("concertina_skipped_steps_total", progress.skipped_steps - skipped)
        if before is not None:
            step = before.step
        elif status.acknowledged is not None and status.acknowledged.round == progress.round:
            step = status.acknowledged.step
        else:
            step = progress.step
        self._add("concertina_steps_total", progress.step - step)

    def _add(self, name: str, amount: float) -> None:
        """A number that fell was rolled back: what was run stays counted."""
        self._totals[name] += max(0.0, amount)


class PodCollector:
    """What Prometheus' registry asks when it is scraped."""

    def __init__(self, tally: Tally, *, namespace: str, job: str) -> None:
        self._tally = tally
        self._labels = {"namespace": namespace, "job": job}

    def collect(self) -> Iterable["Family"]:
        """One family for each metric that has a value now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        reading = self._tally.reading
        for metric in METRICS:
            kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
            samples = _samples(metric.name, reading)
            if not samples:
                continue
            labels = {**self._labels, **samples[0][0]}
            family = kind(metric.name, metric.help, labels=list(labels))
            for extra, value in samples:
                family.add_metric([*self._labels.values(), *extra.values()], value)
            yield family


def _pod_values(statuses: Sequence[WorkerStatus]) -> dict[str, float]:
    """What each pod tells about its own workers."""
    values = {
        "concertina_worker_state_bytes": max((s.state_bytes or 0 for s in statuses), default=0),
        "concertina_worker_peak_bytes": max((s.peak_bytes or 0 for s in statuses), default=0),
    }
    return {name: float(value) for name, value in values.items() if value}


def _job_values(leader: WorkerStatus) -> dict[str, float]:
    """What the leader tells about the job."""
    progress, request, resize = leader.progress, leader.request, leader.acknowledged
    values: dict[str, float | None] = {
        "concertina_round": leader.round,
        "concertina_step_seconds": leader.step_seconds,
        "concertina_checkpoint_blocking_seconds": leader.checkpoint_blocking_seconds,
        "concertina_last_resize_pause_seconds": resize.pause_seconds if resize else None,
    }
    if progress is not None:
        values |= {
            "concertina_loss": progress.loss,
            "concertina_samples_per_second": progress.samples_per_second,
            "concertina_world_size": progress.world_size,
            "concertina_noise_scale_samples": progress.noise_scale,
            "concertina_global_batch_effective_samples": progress.global_batch_size,
            "concertina_global_batch_requested_samples": progress.global_batch_size,
        }
    if request is not None:
        values["concertina_global_batch_requested_samples"] = request.requested
    return {name: float(value) for name, value in values.items() if value is not None}


def _samples(name: str, reading: Reading) -> list[tuple[dict[str, str], float]]:
    """Extra labels and value of each series of a metric."""
    if name == "concertina_last_resize_phase_seconds":
        return [({"phase": phase}, seconds) for phase, seconds in reading.phases.items()]
    return [({}, reading.values[name])] if name in reading.values else []
