"""The operator's own metrics, in a registry of their own, served by health.py at /metrics."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from concertina_operator.cluster.metrics_table import METRICS as METRICS

CONTENT_TYPE: Final = "text/plain; version=0.0.4"


class Metrics:
    """Counters of one process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.reconcile_seconds: Final = Histogram(
            "concertina_operator_reconcile_seconds",
            "Time of one reconcile.",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
            registry=registry,
        )
        self.reconciles: Final = Counter(
            "concertina_operator_reconciles_total",
            "Reconciles by result: Done, Deposed or Error.",
            ["result"],
            registry=registry,
        )
        self.api_calls: Final = Counter(
            "concertina_operator_api_calls_total",
            "Calls to the API server by verb and status; status 0 had no answer.",
            ["verb", "status"],
            registry=registry,
        )
        self.pods_created: Final = Counter(
            "concertina_operator_pods_created_total", "Pods created.", registry=registry
        )
        self.pods_deleted: Final = Counter(
            "concertina_operator_pods_deleted_total", "Pods deleted.", registry=registry
        )
        self.pods_refused: Final = Counter(
            "concertina_operator_pods_refused_total",
            "Creations of pods that the server refused.",
            registry=registry,
        )
        self.reports_refused: Final = Counter(
            "concertina_operator_reports_refused_total",
            "Reports that were refused, whole or in part.",
            registry=registry,
        )
        self.events_lost: Final = Counter(
            "concertina_operator_events_lost_total",
            "Events for people that were not posted: too many of a job, or no API server.",
            registry=registry,
        )
        self.leader: Final = Gauge(
            "concertina_operator_leader", "1 while this process leads.", registry=registry
        )
        self._queue_depth = Gauge(
            "concertina_operator_queue_depth", "Jobs that wait for a reconcile.", registry=registry
        )
        self._queue_oldest = Gauge(
            "concertina_operator_queue_oldest_seconds",
            "How long the job that waits longest has been waiting.",
            registry=registry,
        )

    def answered(self, verb: str, status: int) -> None:
        """Counts one answer of the API server."""
        self.api_calls.labels(verb=verb, status=str(status)).inc()

    def watch_queue(
        self, *, depth: Callable[[], float], oldest_seconds: Callable[[], float]
    ) -> None:
        """Reads the queue whenever somebody asks."""
        self._queue_depth.set_function(depth)
        self._queue_oldest.set_function(oldest_seconds)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)
