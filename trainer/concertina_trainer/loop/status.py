"""What a worker tells its agent: the present status, written when it matters.

Phase changes, requests and acknowledgements are written at once, mere progress a few times a
second at most: a step may take a millisecond.
"""

import logging
import os
import time
from typing import Any

from concertina_api.v1alpha1 import PodPhase
from concertina_trainer.agent.mailbox import WorkerStatus, put, worker_file
from concertina_trainer.loop.context import WorkerContext

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.25


class StatusBoard:
    """The status file of one worker."""

    def __init__(self, context: WorkerContext) -> None:
        self._path = worker_file(context.mailbox, context.local_rank)
        self._status = WorkerStatus(
            incarnation=context.incarnation, local_rank=context.local_rank, pid=os.getpid()
        )
        self._written = 0.0
        self.tell(phase=PodPhase.STARTING)

    @property
    def status(self) -> WorkerStatus:
        """The status as last told."""
        return self._status

    def tell(self, **changes: Any) -> None:
        """Write the status with these changes now."""
        self._status = self._status.model_copy(update=changes)
        self._written = time.monotonic()
        try:
            put(self._path, self._status)
        except OSError as error:
            # A full disk must not end training: what is told next includes this.
            log.warning("the worker's status is not written: %s", error)

    def mention(self, **changes: Any) -> None:
        """Write the status with these changes when the last writing is a while ago."""
        self._status = self._status.model_copy(update=changes)
        if time.monotonic() - self._written >= PROGRESS_SECONDS:
            self.tell()
