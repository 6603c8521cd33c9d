"""When a worker saves, and where: the loop's side of the checkpoint writer.

The leader's clock says when; all workers agree on the step through the control plane. What the
loop waits for is the copy to host memory.
"""

import time
from collections.abc import Callable
from pathlib import Path

from concertina_api.v1alpha1 import JobSpec, Membership, SavedCheckpoint
from concertina_trainer.checkpoint.format import origin
from concertina_trainer.checkpoint.writer import Writer
from concertina_trainer.rounds.watch import present
from concertina_trainer.sharding.state import Holding

FINAL_SAVE_SECONDS = 600.0
"""How long a worker that is done waits for its last checkpoint; its agent may end it before."""


class Saver:
    """The checkpoints of one worker."""

    def __init__(
        self, spec: JobSpec, *, job: str, run_dir: Path, may_publish: Callable[[], bool]
    ) -> None:
        self.path = run_dir / spec.checkpoint.path
        """An absolute path in the manifest stays as it is."""
        self._every_seconds = spec.checkpoint.every_seconds
        self._may_publish = may_publish
        self._writer = Writer(self.path, job=job, keep=spec.checkpoint.keep)
        self._origin = ""
        self._workers: frozenset[str] = frozenset()
        self._leads = False
        self._last = time.monotonic()
        self.blocking_seconds: float | None = None
        """How long the loop waited for the newest copy."""

    def enter(self, membership: Membership, *, rank: int) -> None:
        """From now on saves belong to this round.

        A save that is still written goes on, unless it waits for somebody who is gone.
        """
        if not self._workers <= present(membership):
            self._writer.abandon()
        self._workers = frozenset(membership.workers())
        self._origin = origin(membership.workers())
        self._leads = rank == 0

    @property
    def last(self) -> SavedCheckpoint | None:
        """The newest checkpoint that this worker, as leader, has made durable."""
        return self._writer.last_saved

    @property
    def failures(self) -> int:
        """Saves that came to nothing."""
        return self._writer.failures

    def is_due(self) -> bool:
        """Whether this worker asks for a checkpoint; only the leader does."""
        if self._every_seconds is None or not self._leads or self._writer.pending:
            return False
        return time.monotonic() - self._last >= self._every_seconds

    def reserve(self, holding: Holding) -> None:
        """Get memory for copies ready in the background."""
        if self._every_seconds is not None:
            self._writer.reserve(holding)

    def save(self, holding: Holding) -> None:
        """Copy the state and write it in the background."""
        start = time.perf_counter()
        self._writer.save(holding, origin=self._origin, may_publish=self._may_publish)
        self.blocking_seconds = time.perf_counter() - start
        self._last = time.monotonic()

    def save_now(self, holding: Holding) -> None:
        """Save and wait until it is durable, or has failed."""
        self._writer.wait(FINAL_SAVE_SECONDS)
        self.save(holding)
        self._writer.wait(FINAL_SAVE_SECONDS)

    def close(self) -> None:
        """Drop what is pending."""
        self._writer.close()
