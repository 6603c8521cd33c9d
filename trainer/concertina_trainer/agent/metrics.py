"""The concertina_* metrics of a pod, as Prometheus reads them (endpoint.py serves them).

METRICS is the table (metrics_table.py) that code, docs and dashboards share. A `Tally` turns what
workers tell into numbers that outlive them: counters never fall, whatever is resized, restarted or
rolled back. The registry asks the tally when it is scraped, so nothing is exported twice or late.

Series about the job are exported by the pod that leads and vanish from a pod that does not, so
that a maximum over pods is the job's number. Counters count what this pod has led: when the pod goes,
its part goes with it, and the operator's concertina_job_samples tells the job's whole.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from concertina_api.v1alpha1 import Progress, Resize
from concertina_trainer.agent.energy import EnergyMeter
from concertina_trainer.agent.mailbox import WorkerStatus
from concertina_trainer.agent.metrics_table import METRICS, SOURCES, Metric
from concertina_trainer.agent.status_values import births, job_values, pod_values, recovery_values

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family


__all__ = ["METRICS", "PodCollector", "Reading", "Tally"]

_TOLD_BY_SOME = ("concertina_tokens_total", "concertina_device_energy_joules_total")
"""Counters that are there only once somebody tells them; the others begin with 0."""
_COUNTED_WHILE_LEADING = {
    "concertina_checkpoint_failures_total": "checkpoint_failures",
    "concertina_snapshots_total": "snapshots_taken",
    "concertina_snapshot_failures_total": "snapshot_failures",
}
"""Counters of all workers alike, of which what happened while this one led is told, by field."""
_COUNTED = {
    "concertina_steps_lost_total": "steps_lost",
    "concertina_micro_batches_recomputed_total": "recomputed_micro_batches",
}
"""Counters that each worker process counts for itself, by the field of its status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What there is to tell at one time; a metric without a value is absent."""

    values: dict[str, float] = field(default_factory=dict)
    """By the name of the metric."""
    labelled: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By the name of the metric and the value of its own label."""
    since: Mapping[str, float] = field(default_factory=dict)
    """Of ages, which are those of the scrape: when they began, in seconds of time.monotonic()."""
    devices: frozenset[str] = frozenset()
    """UUIDs of the GPUs in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """How far the counters of one worker process have been added up."""

    status: WorkerStatus | None = None
    progress: Progress | None = None
    """None while another worker leads."""


class Tally:
    """Adds up what workers tell over all their incarnations."""

    def __init__(self) -> None:
        self._totals = {
            metric.name: 0.0
            for metric in METRICS
            if metric.type == "counter"
            and metric.name not in _TOLD_BY_SOME
            and "source" not in metric.labels
        }
        self._recoveries = dict.fromkeys(SOURCES, 0.0)
        self._newest_recovery: Resize | None = None
        self._seen: dict[tuple[str, int], _Seen] = {}
        self._acknowledged_round = 0
        self.reading = Reading(values=dict(self._totals), labelled=self._recovered())
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
        values = self._totals | pod_values(statuses)
        devices = frozenset(status.device for status in statuses if status.device)
        labelled = self._recovered()
        if leader is None:
            self.reading = Reading(values=values, labelled=labelled, devices=devices)
            return
        if leader.acknowledged is not None:
            labelled["concertina_last_resize_phase_seconds"] = dict(leader.acknowledged.phases)
        self.reading = Reading(
            values=values | job_values(leader) | recovery_values(self._newest_recovery),
            labelled=labelled,
            since=births(leader),
            devices=devices,
        )

    def _count(self, status: WorkerStatus) -> None:
        key = (status.incarnation, status.local_rank)
        seen = self._seen.get(key, _Seen())
        before = seen.status or WorkerStatus(incarnation="-", local_rank=0, pid=0)
        samples = status.samples_trained - before.samples_trained
        self._add("concertina_samples_total", samples)
        if status.tokens_per_sample is not None and status.samples_trained:
            self._add("concertina_tokens_total", samples * status.tokens_per_sample)
        for name, counted in _COUNTED.items():
            self._add(name, getattr(status, counted) - getattr(before, counted))
        if status.rank == 0:
            led = before if before.rank == 0 else status
            for name, counted in _COUNTED_WHILE_LEADING.items():
                self._add(name, getattr(status, counted) - getattr(led, counted))
        for source in SOURCES:
            more = status.recoveries.get(source, 0) - before.recoveries.get(source, 0)
            self._recoveries[source] += max(0, more)
        if status.rank == 0 and status.progress is not None:
            self._count_progress(status, status.progress, seen.progress)
        if status.acknowledged is not None:
            self._count_resize(status.acknowledged)
        progress = status.progress if status.rank == 0 else None
        self._seen[key] = _Seen(status=status, progress=progress)

    def _count_resize(self, resize: Resize) -> None:
        """A round that was not seen before; of a job that starts nothing was resized."""
        if resize.round <= self._acknowledged_round:
            return
        self._acknowledged_round = resize.round
        if resize.world_size_before:
            self._add("concertina_resizes_total", 1)
            self._add("concertina_resize_pause_seconds_total", resize.pause_seconds)
        if resize.lost:
            self._newest_recovery = resize

    def _count_progress(
        self, status: WorkerStatus, progress: Progress, before: Progress | None
    ) -> None:
        """Steps since the last look; a worker that begins to lead counts from its round's start."""
        earlier = before or progress
        self._add("concertina_skipped_steps_total", progress.skipped_steps - earlier.skipped_steps)
        self._add("concertina_rollbacks_total", progress.rollbacks - earlier.rollbacks)
        if before is not None:
            step = before.step
        elif status.acknowledged is not None and status.acknowledged.round == progress.round:
            step = status.acknowledged.step
        else:
            step = progress.step
        self._add("concertina_steps_total", progress.step - step)

    def _recovered(self) -> dict[str, Mapping[str, float]]:
        return {"concertina_recoveries_total": dict(self._recoveries)}

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
        now = self._clock()
        values |= {name: max(0.0, now - birth) for name, birth in reading.since.items()}
        joules = self._energy.joules(reading.devices)
        if joules is not None:
            values["concertina_device_energy_joules_total"] = joules
        return replace(reading, values=values)

    def _series(self, metric: Metric, reading: Reading) -> Mapping[str, float]:
        """The value of each series by the metric's own label, which most do not have."""
        if metric.name in reading.labelled:
            return reading.labelled[metric.name]
        value = reading.values.get(metric.name)
        return {} if value is None else {self._pod if "pod" in metric.labels else "": value}
