"""When a worker saves, and where: the loop's side of the checkpoint writer.

The leader's clock says when; all workers agree on the step through the control plane. What the
loop waits for is the copy to host memory: a storage that is away, full or silent costs checkpoints,
not steps. Only who ends waits for the storage, and not beyond its grace.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from concertina_api.location import scheme
from concertina_api.v1alpha1 import CheckpointInterval, JobSpec, Membership, SavedCheckpoint
from concertina_trainer.checkpoint.format import Identity, identity_of, origin
from concertina_trainer.checkpoint.interval import Costs, chosen_seconds, mean_seconds
from concertina_trainer.checkpoint.storage import storage_at
from concertina_trainer.checkpoint.writer import Writer
from concertina_trainer.loop.durable import await_save, never
from concertina_trainer.rounds.watch import present
from concertina_trainer.sharding.state import Holding

log = logging.getLogger(__name__)

FINAL_SAVE_SECONDS = 600.0
"""How long a worker that is done waits for its last checkpoint; its agent may end it before."""
LEADER_FIRST_SECONDS = 30.0
"""So much longer the others wait for it: it fails first, and can tell why."""
MAX_ORIGINS = 16
"""Of so many rounds the workers are known, whose states may be held or in snapshots."""
RETRY_SECONDS = 30.0
"""After a save that came to nothing the next one is not later than this."""


def checkpoint_location(spec: JobSpec, *, job: str, run_dir: Path) -> str:
    """Where a job's checkpoints are: inside the run's folder, or a folder of its own elsewhere.

    Several jobs may name the same absolute path or URL (one volume, one bucket), so each has a
    folder in it.
    """
    path = spec.checkpoint.path
    if scheme(path) is not None:
        return f"{path.rstrip('/')}/{job}"
    return str(Path(path) / job if Path(path).is_absolute() else run_dir / path)


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
        grace_left: Callable[[], float | None] = lambda: None,
    ) -> None:
        """`shares_storage`: whether all pods see one folder of checkpoints.

        `grace_left`: seconds until the pod must have ended; None when it need not.
        Raises InvalidJob, MissingPackage: see storage_at and Writer.
        """
        self.storage = storage_at(checkpoint_location(spec, job=job, run_dir=run_dir))
        self._job = job
        self._every_seconds = spec.checkpoint.every_seconds
        self._measured = spec.checkpoint.interval is CheckpointInterval.MEASURED
        self._may_publish = may_publish
        self._shares_storage = shares_storage
        self._grace_left = grace_left
        self._num_pods = 0
        self._writer = Writer(self.storage, job=job, keep=spec.checkpoint.keep)
        self._origin = ""
        self._origins: dict[int, str] = {}
        """By round."""
        self._workers: frozenset[str] = frozenset()
        self._lost: frozenset[str] = frozenset()
        self._leads = False
        self._joined_at: float | None = None
        self._last = time.monotonic()
        self._costs = Costs()
        self._writing = False
        self.blocking_seconds: float | None = None
        """How long the loop waited for the newest copy."""

    def enter(self, membership: Membership, *, rank: int) -> None:
        """From now on saves belong to this round.

        A save that is still written goes on, unless it waits for somebody who is gone.
        """
        if not self.expects_all_of(membership):
            self._writer.abandon()
        self._workers = frozenset(membership.workers())
        lost = frozenset(member.key for member in membership.lost)
        if lost - self._lost:
            self._costs = self._costs.lost()
        self._lost = lost
        self._num_pods = len(membership.members)
        if rank == 0 and not self.can_save:
            log.warning("%s", self._why_not())
        self._origin = self._origins[membership.round] = origin(membership.workers())
        if len(self._origins) > MAX_ORIGINS:
            del self._origins[min(self._origins)]
        if self._joined_at is None:
            self._joined_at = time.monotonic()
        self._leads = rank == 0

    def expects_all_of(self, membership: Membership) -> bool:
        """Whether all workers of the present round will save their parts, for none is gone."""
        return self._workers <= present(membership)

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
        """When the state was that of the newest checkpoint; without one, when this worker joined.

        In seconds of time.monotonic(). Of what an earlier leader saved this worker knows that it wrote
        its own part: a change of leader makes no checkpoint younger.
        """
        return max(self._joined_at or 0.0, self._writer.written_at or 0.0)

    @property
    def written_step(self) -> int:
        """Step of the newest state of which this worker has saved its part; 0 before the first."""
        return self._writer.written_step

    @property
    def interval_seconds(self) -> float | None:
        """Time between two saves; None when it saves at its ends alone, or cannot save now."""
        every = self._every_seconds if self.can_save else None
        if every is None or not self._measured:
            return every
        return chosen_seconds(self._costs, longest=every, writing_seconds=self._writer.last_seconds)

    @property
    def loss_seconds(self) -> float:
        """Mean time between losses of workers, in seconds of training."""
        return mean_seconds(self._costs.marks, self._costs.training_seconds)

    @property
    def failures(self) -> int:
        """Saves of this worker that came to nothing."""
        return self._writer.failures

    @property
    def trouble(self) -> str:
        """Why the newest save came to nothing, or has not ended; empty while all is well."""
        return self._writer.trouble

    def stepped(self, seconds: float, *, slots: int) -> None:
        """A step of `slots` micro-batches is done; what it took longer is a checkpoint's cost."""
        writing, self._writing = self._writing, self._writer.pending
        self._costs = self._costs.after_step(seconds, slots=slots, writing=writing or self._writing)
        if writing and not self._writing and not self._writer.trouble:
            self._costs = self._costs.saved()

    def is_due(self) -> bool:
        """Whether this worker asks for a checkpoint; only the leader does."""
        every = self.interval_seconds
        if every is None or not self._leads or self._writer.pending:
            return False
        if self._writer.trouble:
            every = min(every, RETRY_SECONDS)
        return time.monotonic() - self._last >= every

    def may_save(self, *, since: float) -> bool:
        """Whether a save can begin, and none has begun since a moment of time.monotonic()."""
        return self.can_save and not self._writer.pending and self._last < since

    def reserve(self, holding: Holding) -> None:
        """Get memory for copies ready in the background, where there will be any."""
        if self.interval_seconds is not None:
            self._writer.reserve(holding)

    def lacking_bytes(self, holding: Holding) -> int:
        """Host memory that checkpoints of the size of `holding` will still take."""
        return self._writer.lacking_bytes(holding) if self.can_save else 0

    def save(self, holding: Holding, *, with_others: bool = False) -> None:
        """Copy the state and write it in the background; `with_others`: see Writer."""
        start = time.perf_counter()
        self._writer.save(
            holding,
            origin=self._origin_of(holding),
            may_publish=self._may_publish,
            with_others=with_others,
        )
        self.blocking_seconds = time.perf_counter() - start
        self._last = time.monotonic()
        self._costs = self._costs.begun(self.blocking_seconds)
        self._writing = True

    def identity_of(self, holding: Holding) -> Identity:
        """As what it is saved; all workers of the round that it was trained in say the same."""
        return identity_of(holding, job=self._job, origin=self._origin_of(holding))

    def drop_pending(self, *, within_seconds: float) -> bool:
        """Drop what is being written; False when the storage does not let go of it in time."""
        self._writer.abandon()
        return self._writer.wait(within_seconds)

    def save_now(self, holding: Holding) -> None:
        """Save and wait until this worker's part is durable; of rank 0, until the checkpoint is.

        Raises TrainingFailed, StorageUnavailable when it could not be. Where nothing can be saved,
        nothing is.
        """
        self._await(holding, gives_up=never)

    def save_with_others(self, holding: Holding, *, gives_up: Callable[[], bool]) -> bool:
        """Save as all workers of the round do, and wait until the checkpoint is durable.

        Nobody may end before: everybody holds a part of the state. False when `gives_up` says
        first that the round is over, or when another worker keeps it from being durable: then the
        next round is waited for. Raises as `save_now`.
        """
        return self._await(holding, gives_up=gives_up, with_others=True)

    def _await(
        self, holding: Holding, *, gives_up: Callable[[], bool], with_others: bool = False
    ) -> bool:
        if self.can_save:
            return await_save(
                self._writer,
                lambda: self.save(holding, with_others=with_others),
                step=holding.step,
                seconds=self.final_seconds,
                gives_up=gives_up,
                # Who must end leaves its part to the others.
                with_others=with_others and self._grace_left() is None,
            )
        if self._leads:
            log.warning(
                "the state of step %d ends with the pods: %s", holding.step, self._why_not()
            )
        return True

    @property
    def final_seconds(self) -> float:
        """How long the last save may take; some of a grace is left for the words about it."""
        grace = self._grace_left()
        longest = FINAL_SAVE_SECONDS + (0.0 if self._leads else LEADER_FIRST_SECONDS)
        return longest if grace is None else min(longest, max(1.0, 0.8 * grace))

    @property
    def can_save(self) -> bool:
        """Whether the leader sees the parts of all workers; those of one pod share its folder."""
        return self._shares_storage or self._num_pods <= 1

    def _origin_of(self, holding: Holding) -> str:
        return self._origins.get(holding.round, self._origin)

    def _why_not(self) -> str:
        return (
            f"no checkpoint is saved while {self._num_pods} pods train: each has a folder"
            f" {self.storage.location} of its own, which ends with it; mount a volume there"
        )

    def close(self) -> None:
        """Drop what is pending."""
        self._writer.close()
