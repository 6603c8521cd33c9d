"""The operator's metrics at /metrics: those of the process, and those of the jobs that it serves.

Names, labels and words are those of the table (metrics_table.py). The jobs are looked at when
somebody asks: their series end with them. Only a leader has looked at any, so a replica that waits
exports none, and a sum over replicas counts each job once.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from concertina_api.v1alpha1 import JobStatus
from concertina_operator.cluster.job_samples import (
    PHASES,
    JobView,
    fleet_samples,
    job_samples,
    phase_seconds,
)
from concertina_operator.cluster.metrics_table import (
    FLEET_METRICS,
    JOB_METRICS,
    METRICS,
    PROCESS_METRICS,
)
from concertina_operator.cluster.records import Records, RefusedKind
from concertina_operator.cluster.store import Key

__all__ = ["CONTENT_TYPE", "METRICS", "Metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4"
_DISTRIBUTION: Final = "concertina-training"
_RECONCILE_BUCKETS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_PHASE_BUCKETS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_ROWS: Final = {row.name: row for row in PROCESS_METRICS}

Views = Callable[[], Iterable[JobView]]


class Metrics:
    """What one process counts and knows."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the client has no type here
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.jobs: Final = Records()
        self._views: Views | None = None
        self.reconcile_seconds: Final = self._histogram(
            "concertina_operator_reconcile_seconds", _RECONCILE_BUCKETS
        )
        self.reconciles: Final = self._counter("concertina_operator_reconciles_total")
        self.api_calls: Final = self._counter("concertina_operator_api_calls_total")
        self.pods_created: Final = self._counter("concertina_operator_pods_created_total")
        self.pods_deleted: Final = self._counter("concertina_operator_pods_deleted_total")
        self.pods_refused: Final = self._counter("concertina_operator_pods_refused_total")
        self.reports_refused: Final = self._counter("concertina_operator_reports_refused_total")
        self.events_lost: Final = self._counter("concertina_operator_events_lost_total")
        self.leader: Final = self._gauge("concertina_operator_leader")
        self._phases = self._histogram("concertina_operator_resize_phase_seconds", _PHASE_BUCKETS)
        for phase in (
            PHASES
        ):  # there from the start: a rate does not see the value that a series begins with
            self._phases.labels(phase=phase)
        self._queue_depth = self._gauge("concertina_operator_queue_depth")
        self._queue_oldest = self._gauge("concertina_operator_queue_oldest_seconds")
        self._reconcile_oldest = self._gauge("concertina_operator_reconcile_oldest_seconds")
        build = self._gauge("concertina_operator_build_info")
        build.labels(version=version(_DISTRIBUTION)).set(1)

    def answered(self, verb: str, status: int) -> None:
        """Counts one answer of the API server."""
        self.api_calls.labels(verb=verb, status=str(status)).inc()

    def refused(self, what: RefusedKind, *, job: Key, job_uid: str) -> None:
        """Counts what was refused of a job, or for it."""
        self.jobs.refused(job, uid=job_uid, what=what)
        if what is RefusedKind.POD:
            self.pods_refused.inc()
        elif what is RefusedKind.REPORT:
            self.reports_refused.inc()

    def resized(self, before: JobStatus, after: JobStatus) -> None:
        """Takes the phases of a resize that is newly stored, if there is one."""
        for phase, seconds in phase_seconds(before, after).items():
            self._phases.labels(phase=phase).observe(seconds)

    def watch_queue(
        self,
        *,
        depth: Callable[[], float],
        oldest_seconds: Callable[[], float],
        busiest_seconds: Callable[[], float],
    ) -> None:
        """Reads the queue whenever somebody asks."""
        self._queue_depth.set_function(depth)
        self._queue_oldest.set_function(oldest_seconds)
        self._reconcile_oldest.set_function(busiest_seconds)

    def watch_jobs(self, views: Views) -> None:
        """Looks at the jobs whenever somebody asks; a process that does so leads."""
        self._views = views

    def look(self) -> Callable[[], bytes]:
        """Looks at everything now; what is given back writes it down, in any thread.

        Writing down a thousand jobs takes longer than the event loop should stand still.
        """
        process = generate_latest(self._registry)
        if self._views is None:
            return lambda: process
        jobs = _Jobs(tuple(self._views()))
        return lambda: process + generate_latest(jobs)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return self.look()()

    def _counter(self, name: str) -> Counter:
        row = _ROWS[name]
        return Counter(row.name, row.help, row.labels, registry=self._registry)

    def _gauge(self, name: str) -> Gauge:
        row = _ROWS[name]
        return Gauge(row.name, row.help, row.labels, registry=self._registry)

    def _histogram(self, name: str, buckets: Sequence[float]) -> Histogram:
        row = _ROWS[name]
        return Histogram(row.name, row.help, row.labels, buckets=buckets, registry=self._registry)


class _Jobs(Collector):
    """The families of the jobs, for Prometheus' own writer."""

    def __init__(self, views: Sequence[JobView]) -> None:
        self._views = views

    def collect(self) -> Iterator[Family]:
        """One family for each metric of the table that has a series."""
        samples = defaultdict(list)
        for sample in fleet_samples(self._views):
            samples[sample.name].append(sample)
        for view in self._views:
            for sample in job_samples(view):
                samples[sample.name].append(sample)
        for row in (*FLEET_METRICS, *JOB_METRICS):
            kind = CounterMetricFamily if row.type == "counter" else GaugeMetricFamily
            family = kind(row.name, row.help, labels=row.labels)
            for _, labels, value in samples[row.name]:
                family.add_metric(labels, value)
            if family.samples:
                yield family
