"""Takes keys from the queue and reconciles their jobs, many jobs at once, each by one worker.

Started by shell.py. Here is the outermost loop of the operator: whatever goes wrong with one job is
logged, and the job is tried again later, while the others go on.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from concertina_operator.cluster.errors import ApiError, Deposed
from concertina_operator.cluster.logs import of_job
from concertina_operator.cluster.metrics import Metrics
from concertina_operator.cluster.queue import Queue
from concertina_operator.cluster.store import Key

Reconcile = Callable[[Key], Awaitable[timedelta | None]]

_log = logging.getLogger(__name__)


class Workers:
    """A fixed number of workers on one queue."""

    def __init__(
        self, queue: Queue[Key], reconcile: Reconcile, *, metrics: Metrics, number: int
    ) -> None:
        self._queue = queue
        self._reconcile = reconcile
        self._metrics = metrics
        self._number = number
        self._is_stopping = False
        self._idle = asyncio.Event()
        self._num_busy = 0

    async def run(self) -> None:
        """Works until stopped."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._number):
                group.create_task(self._work())

    async def stop(self, *, patience_seconds: float) -> None:
        """Lets the jobs in hand be finished, and takes no other."""
        self._is_stopping = True
        deadline = time.monotonic() + patience_seconds
        while self._num_busy and time.monotonic() < deadline:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), deadline - time.monotonic())
            except TimeoutError:
                return

    async def _work(self) -> None:
        while True:
            key = await self._queue.take()
            if self._is_stopping:
                return
            self._num_busy += 1
            started = time.monotonic()
            try:
                with of_job(key):
                    result = await self._attempt(key)
            finally:
                self._num_busy -= 1
                self._idle.set()
            self._metrics.reconcile_seconds.observe(time.monotonic() - started)
            self._metrics.reconciles.labels(result=result).inc()

    async def _attempt(self, key: Key) -> str:
        try:
            wait = await self._reconcile(key)
        except Deposed:
            # A renewal that takes long comes too late for this write, and may come all the same.
            self._queue.failed(key)
            return "Deposed"
        except ApiError as error:
            pause = self._queue.failed(key)
            _log.warning("%s: %s; tries again in %.1f s", key, error, pause)
            return "Error"
        except Exception:  # noqa: BLE001 - the outermost loop: one job must not stop the others
            pause = self._queue.failed(key)
            _log.exception("%s: tries again in %.1f s", key, pause)
            return "Error"
        self._queue.done(key)
        if wait is not None:
            self._queue.add_after(key, max(wait.total_seconds(), 0.0))
        return "Done"
