"""When a worker saves, and where: the loop's side of the checkpoint writer.

The leader's clock says when; all workers agree on the step through the control plane. What the
loop waits for is the copy to host memory.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from concertina_api.errors import TrainingFailed
from concertina_api.v1alpha1 import JobSpec, Membership, SavedCheckpoint
from concertina_trainer.checkpoint.format import origin
from concertina_trainer.checkpoint.writer import Writer
from concertina_trainer.rounds.watch import present
from concertina_trainer.sharding.state import Holding

log = logging.getLogger(__name__)

FINAL_SAVE_SECONDS = 600.0
"""How long a worker that is done waits for its last checkpoint; its agent may end it before."""


def checkpoint_folder(spec: JobSpec, *, job: str, run_dir: Path) -> Path:
    """Where a job's checkpoints are: inside the run's folder, or a folder of its own elsewhere.

    Several jobs may name the same absolute path (one volume), so each has a folder in it.
    """
    path = Path(spec.checkpoint.path)
    return path / job if path.is_absolute() else run_dir / path


class Saver:
    """The checkpoints of one worker."""

    def __init__(
        self,
        spec: JobSpec,
        *,
        job: str,
        run_dir: Path,
        may_publish: Callable[[], bool],
        shares_storage: bool = True,
    ) -> None:
        """`shares_storage`: whether all pods see one folder of checkpoints."""
        self.path = checkpoint_folder(spec, job=job, run_dir=run_dir)
        self._every_seconds = spec.checkpoint.every_seconds
        self._may_publish = may_publish
        self._shares_storage = shares_storage
        self._num_pods = 0
        self._writer = Writer(self.path, job=job, keep=spec.checkpoint.keep)
        self._origin = ""
        self._workers: frozenset[str] = frozenset()
        self._leads = False
        self._led_since = 0.0
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
        self._num_pods = len(membership.members)
        if rank == 0 and not self._can_save:
            log.warning("%s", self._why_not())
        self._origin = origin(membership.workers())
        if rank == 0 and not self._leads:
            self._led_since = time.monotonic()
        self._leads = rank == 0

    @property
    def last(self) -> SavedCheckpoint | None:
        """The newest checkpoint that this worker, as leader, has made durable."""
        return self._writer.last_saved

    @property
    def seconds(self) -> float | None:
        """How long `last` took, the copy included."""
        newest = self._writer.newest
        return None if newest is None else newest.seconds

    @property
    def safe_at(self) -> float:
        """When the state was that of `last`; without one, when this worker began to lead.

        In seconds of time.monotonic(). What an earlier leader saved is not known.
        """
        newest = self._writer.newest
        return max(self._led_since, 0.0 if newest is None else newest.begun)

    @property
    def interval_seconds(self) -> float | None:
        """Time between two saves; None when it saves at its ends alone, or cannot save now."""
        return self._every_seconds if self._can_save else None

    def is_due(self) -> bool:
        """Whether this worker asks for a checkpoint; only the leader does."""
        every = self.interval_seconds
        if every is None or not self._leads or self._writer.pending:
            return False
        return time.monotonic() - self._last >= every

    def reserve(self, holding: Holding) -> None:
        """Get memory for copies ready in the background, where there will be any."""
        if self.interval_seconds is not None:
            self._writer.reserve(holding)

    def save(self, holding: Holding) -> None:
        """Copy the state and write it in the background."""
        start = time.perf_counter()
        self._writer.save(holding, origin=self._origin, may_publish=self._may_publish)
        self.blocking_seconds = time.perf_counter() - start
        self._last = time.monotonic()

    def save_now(self, holding: Holding) -> None:
        """Save and wait until it is durable, where that can be.

        Raises TrainingFailed when it could not be.
        """
        if not self._can_save:
            if self._leads:
                log.warning(
                    "the state of step %d ends with the pods: %s", holding.step, self._why_not()
                )
            return
        self._writer.wait(FINAL_SAVE_SECONDS)
        failures = self._writer.failures
        self.save(holding)
        done = self._writer.wait(FINAL_SAVE_SECONDS)
        if not done or self._writer.failures > failures:
            why = self._writer.last_failure if done else f"not within {FINAL_SAVE_SECONDS:.0f} s"
            raise TrainingFailed(f"the last checkpoint (step {holding.step}) is not saved: {why}")

    @property
    def _can_save(self) -> bool:
        """Whether the leader sees the parts of all workers; those of one pod share its folder."""
        return self._shares_storage or self._num_pods <= 1

    def _why_not(self) -> str:
        return (
            f"no checkpoint is saved while {self._num_pods} pods train: each has a folder"
            f" {self.path} of its own, which ends with it; mount a volume there"
        )

    def close(self) -> None:
        """Drop what is pending."""
        self._writer.close()
