"""The operator on one API server: everything that a leader runs, put together.

Used by serve.py once the lease is held. Reflectors and kopf fill `Watched` and the queue, workers
reconcile what the queue gives them.

    kopf (jobs) ----------------------+
    reflectors (pods, memberships, +--> Watched --> Queue --> Workers --> Reconciler --> Hands
                reports)           |                                         |             |
                                   +------ answers to own writes ------------+-------------+
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Set
from datetime import datetime
from typing import Any, Final

from concertina_operator.cluster import paths
from concertina_operator.cluster.apply import Hands
from concertina_operator.cluster.bindings import TrainerBindings
from concertina_operator.cluster.client import Api
from concertina_operator.cluster.errors import ApiError
from concertina_operator.cluster.events import Events
from concertina_operator.cluster.facts import read_membership, read_report
from concertina_operator.cluster.job_samples import JobView
from concertina_operator.cluster.job_views import job_views
from concertina_operator.cluster.jobs import JobWatch, list_jobs, resync_jobs
from concertina_operator.cluster.last_words import LastWords
from concertina_operator.cluster.metrics import Metrics
from concertina_operator.cluster.notices import notice_taints
from concertina_operator.cluster.observe import Watched
from concertina_operator.cluster.pod import JOB_LABEL
from concertina_operator.cluster.pod_facts import read_pod
from concertina_operator.cluster.queue import Queue
from concertina_operator.cluster.rate import Rate
from concertina_operator.cluster.reconcile import Reconciler
from concertina_operator.cluster.reflector import Reflector
from concertina_operator.cluster.refusals import Refusals
from concertina_operator.cluster.store import Key
from concertina_operator.cluster.workers import Workers
from concertina_operator.steady_clock import SteadyClock

NUM_WORKERS: Final = 16
PODS_PER_SECOND: Final = 400.0
REPORTS_PAGE: Final = 250
"""Reports of one answer: programs of users write them, and may write them large."""
NODES_PAGE: Final = 100
"""Nodes of one answer: each tells of all images that it has."""
_NODES_PAUSES: Final = (0.5, 5.0, 60.0)
"""Seconds: who may not read nodes is not heard the sooner for asking often."""
_RETRY_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)


def _nodes(api: Api, watched: Watched, *, known: Set[str]) -> Reflector[tuple[str, ...]]:
    """Follows nodes, of which it keeps only the notices."""
    return Reflector(
        api,
        paths.nodes(),
        watched.nodes,
        read=lambda document, _: notice_taints(document, known=known),
        on_change=watched.node_changed,
        page=NODES_PAGE,
        pauses=_NODES_PAUSES,
    )


class Shell:
    """One leader's work. Use each instance once, within one event loop."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str | None,
        instance: str,
        metrics: Metrics,
        num_workers: int = NUM_WORKERS,
        pods_per_second: float = PODS_PER_SECOND,
        clock: Callable[[], datetime] | None = None,
        log_format: str | None = None,
        notice_taints: Set[str] | None = None,
    ) -> None:
        """`namespace` None serves all of them; `instance` names this process in events.

        A first burst of pods is as large as what is created in a second. `log_format`: see Hands.
        `notice_taints` are keys of taints by which nodes say that they are about to be taken away;
        with None nodes are not read. `clock`: that of the plans; the wall's, held steady.
        """
        self._steady = SteadyClock()
        clock = clock or self._steady.now
        self._api = api
        self._namespace = namespace
        self.is_synced = False
        """Whether all that exists has been listed once."""
        self.queue: Queue[Key] = Queue()
        self.watched = watched = Watched(self.queue)
        pods = Reflector(
            api,
            paths.pods(namespace),
            watched.pods,
            read=read_pod,
            on_change=watched.pod_changed,
            params={"labelSelector": JOB_LABEL},
        )
        memberships = Reflector(
            api,
            paths.memberships(namespace),
            watched.memberships,
            read=read_membership,
            on_change=watched.membership_changed,
        )
        reports = Reflector(
            api,
            paths.reports(namespace),
            watched.reports,
            read=read_report,
            on_change=watched.report_changed,
            page=REPORTS_PAGE,
        )
        self._reflectors: tuple[Reflector[Any], ...] = (pods, memberships, reports)
        self._nodes = None if notice_taints is None else _nodes(api, watched, known=notice_taints)
        self._job_watch = JobWatch(api, watched, namespace=namespace)
        refusals = Refusals()
        self._events = Events(api, instance=instance, metrics=metrics)
        hands = Hands(
            api,
            take_pod=pods.take_answer,
            take_membership=memberships.take_answer,
            refusals=refusals,
            bindings=TrainerBindings(api) if namespace is None else None,
            rate=Rate(per_second=pods_per_second, burst=math.ceil(pods_per_second)),
            metrics=metrics,
            clock=clock,
            log_format=log_format,
        )
        self.reconciler = Reconciler(
            api,
            watched=watched,
            hands=hands,
            last_words=LastWords(api, watched=watched, take_report=reports.take_answer),
            refusals=refusals,
            events=self._events,
            metrics=metrics,
            clock=clock,
        )
        self._workers = Workers(
            self.queue, self.reconciler.reconcile, metrics=metrics, number=num_workers
        )
        self._metrics = metrics
        self._clock = clock
        metrics.watch_queue(
            depth=self.queue.__len__,
            oldest_seconds=self.queue.oldest_seconds,
            busiest_seconds=self.queue.busiest_seconds,
        )

    async def run(self) -> None:
        """Works until cancelled. Raises what cannot be mended in this process."""
        loop = asyncio.get_running_loop()
        # Who waited for the lease for days would go by a time that the machine has left since.
        self._steady.set()
        self._metrics.watch_jobs(lambda: self._views(loop_time=loop.time()))
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors:
                group.create_task(reflector.run())
            if self._nodes is not None:
                # Nobody waits for it: without notices pods leave when they are told to end.
                group.create_task(self._nodes.run())
            group.create_task(self._events.run())
            await self.synced()
            group.create_task(self._job_watch.run())
            group.create_task(resync_jobs(self._api, self.watched, namespace=self._namespace))
            group.create_task(self._workers.run())

    async def synced(self) -> None:
        """Waits until all that exists has been listed, however long the API server is away.

        Before that a plan would take what was not read yet for what is not there.
        """
        for reflector in self._reflectors:
            await reflector.synced.wait()
        while True:
            try:
                await list_jobs(self._api, self.watched, namespace=self._namespace)
            except ApiError as error:
                _log.warning("jobs cannot be listed: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self.is_synced = True
                return

    async def finish(self, *, patience_seconds: float) -> None:
        """Lets the jobs in hand be finished and their events be told."""
        deadline = time.monotonic() + patience_seconds
        await self._workers.stop(patience_seconds=patience_seconds)
        try:
            await asyncio.wait_for(self._events.flush(), max(deadline - time.monotonic(), 0))
        except TimeoutError:
            _log.info("some events were not told")

    def silent_seconds(self, *, succeeded_at: float) -> float:
        """How long a watch had heard nothing when the last call succeeded."""
        heard_at = min(reflector.heard_at for reflector in self._reflectors)
        return max(succeeded_at - min(heard_at, self._job_watch.heard_at), 0.0)

    def _views(self, *, loop_time: float) -> Iterator[JobView]:
        """The jobs as a scrape sees them."""
        return job_views(self.watched, self._metrics.jobs, now=self._clock(), loop_time=loop_time)
