"""The concertina_* metrics of a pod, as Prometheus reads them (endpoint.py serves them).

METRICS is the table that code, README and dashboards share. A `Tally` turns what workers tell
into numbers that outlive them: counters never fall, whatever is resized, restarted or rolled
back. The registry asks the tally when it is scraped, so nothing is exported twice or late.

Series about the job are exported by the pod that leads and vanish from a pod that does not, so
that a maximum over pods is the job's number. Counters count what this pod has led: when the pod goes,
its part goes with it, and the operator's concertina_job_samples tells the job's whole.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from concertina_api.v1alpha1 import Progress
from concertina_trainer.agent.energy import EnergyMeter
from concertina_trainer.agent.mailbox import WorkerStatus

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family


JOB = ("namespace", "job")
"""Labels that every series has: the training job's."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table."""

    name: str
    type: Literal["counter", "gauge"]
    unit: str
    help: str
    labels: tuple[str, ...] = JOB
    """Of its series; JOB, and at most one of its own."""


METRICS = (
    Metric("concertina_loss", "gauge", "", "Training loss of the newest step."),
    Metric("concertina_samples_total", "counter", "samples", "Samples trained."),
    Metric("concertina_steps_total", "counter", "steps", "Optimizer steps taken."),
    Metric(
        "concertina_tokens_total",
        "counter",
        "tokens",
        "Tokens trained; of a task that tells how many a sample has.",
    ),
    Metric("concertina_skipped_steps_total", "counter", "steps", "Steps that were not finite."),
    Metric("concertina_samples_per_second", "gauge", "samples/s", "Throughput of training."),
    Metric(
        "concertina_tokens_per_second",
        "gauge",
        "tokens/s",
        "The same in tokens, where the task tells.",
    ),
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
    Metric(
        "concertina_accumulation_micro_batches",
        "gauge",
        "micro-batches",
        "Micro-batches that one worker ran in the newest step.",
    ),
    Metric("concertina_learning_rate", "gauge", "", "Learning rate of the newest step."),
    Metric(
        "concertina_gradient_norm",
        "gauge",
        "",
        "Norm of the gradient of the newest step, before clipping.",
    ),
    Metric(
        "concertina_gradient_variance",
        "gauge",
        "",
        "Variance of one sample's gradient, smoothed as the rule has it.",
    ),
    Metric("concertina_noise_scale_samples", "gauge", "samples", "Gradient noise scale, smoothed."),
    Metric(
        "concertina_noise_estimate_age_samples",
        "gauge",
        "samples",
        "Samples since a step last told anything about gradient noise; of a rule that measures it.",
    ),
    Metric(
        "concertina_rule_ratio",
        "gauge",
        "",
        "Batch that the gradient asks for over the batch that runs; none for Ramp and Fixed.",
    ),
    Metric(
        "concertina_rule_threshold",
        "gauge",
        "",
        "Ratio from which the next decision grows the batch.",
    ),
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
        (*JOB, "phase"),
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
    Metric(
        "concertina_checkpoint_seconds",
        "gauge",
        "s",
        "Time from the copy of the newest checkpoint until it was durable.",
    ),
    Metric(
        "concertina_checkpoint_age_seconds",
        "gauge",
        "s",
        "Age of the state in the newest durable checkpoint; without one, since the pod leads.",
    ),
    Metric(
        "concertina_checkpoint_interval_seconds",
        "gauge",
        "s",
        "Time between two checkpoints as the job has it; absent when it saves at its ends alone, or"
        " when nothing can be saved because several pods share no folder.",
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
    Metric(
        "concertina_device_memory_bytes",
        "gauge",
        "bytes",
        "Memory that the pod's workers hold on their GPUs.",
        (*JOB, "pod"),
    ),
    Metric(
        "concertina_device_energy_joules_total",
        "counter",
        "J",
        "Energy that the pod's GPUs have used, where they tell.",
        (*JOB, "pod"),
    ),
)
"""Every metric of the trainer."""

_TOLD_BY_SOME = ("concertina_tokens_total", "concertina_device_energy_joules_total")
"""Counters that are there only once somebody tells them; the others begin with 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What there is to tell at one time; a metric without a value is absent."""

    values: dict[str, float] = field(default_factory=dict)
    """By the name of the metric."""
    phases: dict[str, float] = field(default_factory=dict)
    safe_at: float | None = None
    """See WorkerStatus; the age is that of the scrape."""
    devices: frozenset[str] = frozenset()
    """UUIDs of the GPUs in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """How far the counters of one worker process have been added up."""

    samples: int = 0
    micro_batches: int = 0
    progress: Progress | None = None


class Tally:
    """Adds up what workers tell over all their incarnations."""

    def __init__(self) -> None:
        self._totals = {
            metric.name: 0.0
            for metric in METRICS
            if metric.type == "counter" and metric.name not in _TOLD_BY_SOME
        }
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
        leader = next((status for status in statuses if status.rank == 0), None)
        values = self._totals | _pod_values(statuses)
        devices = frozenset(status.device for status in statuses if status.device)
        if leader is None:
            self.reading = Reading(values=values, devices=devices)
            return
        values |= _job_values(leader)
        resize = leader.acknowledged
        self.reading = Reading(
            values=values,
            phases=dict(resize.phases) if resize else {},
            safe_at=leader.safe_at,
            devices=devices,
        )

    def _count(self, status: WorkerStatus) -> None:
        key = (status.incarnation, status.local_rank)
        seen = self._seen.get(key, _Seen())
        samples = status.samples_trained - seen.samples
        self._add("concertina_samples_total", samples)
        if status.tokens_per_sample is not None and status.samples_trained:
            self._add("concertina_tokens_total", samples * status.tokens_per_sample)
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
        self._totals[name] = self._totals.get(name, 0.0) + max(0.0, amount)


class PodCollector:
    """What Prometheus' registry asks when it is scraped."""

    def __init__(
        self,
        tally: Tally,
        *,
        namespace: str,
        job: str,
        pod: str,
        energy: EnergyMeter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tally = tally
        self._labels = (namespace, job)
        self._pod = pod
        self._energy = energy or EnergyMeter()
        self._clock = clock

    def collect(self) -> Iterable["Family"]:
        """One family for each metric that has a value now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        reading = self._read()
        for metric in METRICS:
            kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for own, value in self._series(metric, reading).items():
                family.add_metric([*self._labels, own][: len(metric.labels)], value)
            if family.samples:
                yield family

    def _read(self) -> Reading:
        """The newest reading, with what is known only when somebody asks."""
        reading = self._tally.reading
        values = dict(reading.values)
        if reading.safe_at is not None:
            age = self._clock() - reading.safe_at
            values["concertina_checkpoint_age_seconds"] = max(0.0, age)
        joules = self._energy.joules(reading.devices)
        if joules is not None:
            values["concertina_device_energy_joules_total"] = joules
        return replace(reading, values=values)

    def _series(self, metric: Metric, reading: Reading) -> dict[str, float]:
        """The value of each series by the metric's own label, which most do not have."""
        if "phase" in metric.labels:
            return reading.phases
        value = reading.values.get(metric.name)
        return {} if value is None else {self._pod if "pod" in metric.labels else "": value}


def _pod_values(statuses: Sequence[WorkerStatus]) -> dict[str, float]:
    """What each pod tells about its own workers."""
    values = {
        "concertina_worker_state_bytes": max((s.state_bytes or 0 for s in statuses), default=0),
        "concertina_worker_peak_bytes": max((s.peak_bytes or 0 for s in statuses), default=0),
        "concertina_device_memory_bytes": sum(s.device_bytes or 0 for s in statuses),
    }
    return {name: float(value) for name, value in values.items() if value}


def _job_values(leader: WorkerStatus) -> dict[str, float]:
    """What the leader tells about the job."""
    progress, request, resize = leader.progress, leader.request, leader.acknowledged
    values: dict[str, float | None] = {
        "concertina_round": leader.round,
        "concertina_step_seconds": leader.step_seconds,
        "concertina_checkpoint_blocking_seconds": leader.checkpoint_blocking_seconds,
        "concertina_checkpoint_seconds": leader.checkpoint_seconds,
        "concertina_checkpoint_interval_seconds": leader.checkpoint_interval_seconds,
        "concertina_last_resize_pause_seconds": resize.pause_seconds if resize else None,
    }
    if leader.measured is not None:
        values |= {f"concertina_{name}": value for name, value in leader.measured}
    if progress is not None:
        rate, tokens = progress.samples_per_second, leader.tokens_per_sample
        values |= {
            "concertina_tokens_per_second": rate * tokens if rate and tokens else None,
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
