"""Saves checkpoints in the background: one thread per worker, no collectives.

The training loop calls `save` after a step that all workers agreed on, waits for the copy to host
memory and goes on. The thread writes this worker's part; on rank 0 it then waits for the parts
of the others, by their files, and makes the set a checkpoint (checkpoint/save.py). A resize in
between hinders nobody: a save belongs to the world it was begun in, and a set that lacks a part is
dropped.

A save that fails (disk full, storage gone) is logged and counted and leaves older checkpoints as
they were; training goes on, and the next interval tries again.
"""

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

import torch

from concertina_api.v1alpha1 import SavedCheckpoint
from concertina_trainer.checkpoint import format as fmt
from concertina_trainer.checkpoint.host_copy import HostBuffers, num_bytes
from concertina_trainer.checkpoint.parts import written_by
from concertina_trainer.checkpoint.publish import SaveDropped
from concertina_trainer.checkpoint.save import Save, Saved, Saves
from concertina_trainer.checkpoint.storage import Location, storage_at
from concertina_trainer.sharding.state import Holding

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""How long the end of a worker waits for a write that is under way."""


class Writer:
    """The checkpoint writer of one worker; its methods are for the training loop's thread."""

    def __init__(
        self, location: Location, *, job: str, keep: int, deadline_seconds: float = 600.0
    ) -> None:
        """Checkpoints of `job` go to folders at a path or URL, of which `keep` stay.

        While one is written there are `keep` + 1. `deadline_seconds` bounds how long the leader
        waits for the parts of the others. Raises InvalidJob when the folder is another job's:
        each of them would remove what the other is about to write.
        """
        self._storage = storage_at(location)
        self._job = job
        self._saves = Saves(self._storage, job=job, keep=keep, deadline_seconds=deadline_seconds)
        self._deadline_seconds = deadline_seconds
        self._buffers = HostBuffers()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._unfinished: list[Save] = []
        self._thread: threading.Thread | None = None
        self.newest: Saved | None = None
        """The newest checkpoint that this worker published."""
        self.written_at: float | None = None
        """When the state was copied whose part this worker wrote last, in time.monotonic()."""
        self.written_step = 0
        """Step of that state; 0 before the first."""
        self.last_seconds = 0.0
        """What the newest save of this worker took that came to its end, from the copy on."""
        self.failures = 0
        """Saves of this worker that came to nothing."""
        self.last_error: Exception | None = None
        """Why the newest of them did."""
        self._failed = False

    @property
    def last_saved(self) -> SavedCheckpoint | None:
        """What reports tell of `newest`."""
        return None if self.newest is None else self.newest.checkpoint

    @property
    def last_failure(self) -> str:
        """What is told of `last_error`."""
        error = self.last_error
        return "" if error is None else f"{type(error).__name__}: {error}"

    @property
    def waits_for_parts(self) -> bool:
        """Whether the leader's oldest save that has not ended lacks nothing but others' parts."""
        return self._waits_for_others(leads=True)

    @property
    def waits_for_leader(self) -> bool:
        """Whether of the oldest save that has not ended this worker's part is there."""
        return self._waits_for_others(leads=False)

    def has_published_since(self, moment: float) -> bool:
        """Whether a state that was copied after a moment of time.monotonic() is durable.

        Sooner than that nothing is pending: older checkpoints are removed after it.
        """
        return self.newest is not None and self.newest.begun >= moment

    @property
    def trouble(self) -> str:
        """Why the newest save came to nothing, or has not ended in time; empty otherwise."""
        with self._changed:
            oldest = min((save.begun for save in self._unfinished), default=None)
        if oldest is not None and (age := time.monotonic() - oldest) > self._deadline_seconds:
            return f"a save has been written for {age:.0f} s: the storage does not answer"
        return self.last_failure if self._failed else ""

    @property
    def pending(self) -> bool:
        """Whether a save is being written, or waits for the parts of others."""
        with self._changed:
            return bool(self._unfinished)

    def reserve(self, holding: Holding) -> None:
        """Prepare memory for copies of the size of `holding`, in the background.

        Without it the first save waits for fresh pages, several times as long as later ones.
        """
        part = _part(holding)
        total, pinned = num_bytes(part), any(tensor.is_cuda for tensor in part.values())
        self._put(lambda: self._buffers.reserve(total, pinned=pinned))

    def lacking_bytes(self, holding: Holding) -> int:
        """Host memory that saves of the size of `holding` will take beyond what is reserved."""
        return self._buffers.lacking(num_bytes(_part(holding)))

    def save(
        self,
        holding: Holding,
        *,
        origin: str,
        may_publish: Callable[[], bool],
        with_others: bool = False,
    ) -> None:
        """Copy this worker's part of `holding` to the host and save it in the background.

        All workers of a world call this after the same step. `origin` is format.origin of the
        world's workers. `may_publish` says, at any time and from any thread, whether this worker
        may move `latest`: it is a member of the newest round it knows, or of the last one when
        that has no members. `holding.extra["samples"]` is the number of samples consumed.
        `with_others`: on every rank the save is pending until the leader has made it a checkpoint.
        """
        save = Save(
            identity=fmt.identity_of(holding, job=self._job, origin=origin),
            begun=time.monotonic(),
            facts=replace(holding, tensors={}),
            copied=self._buffers.copy(holding, _part(holding)),
            may_publish=may_publish,
            with_others=with_others,
        )
        with self._changed:
            self._unfinished.append(save)
        self._put(lambda: self._run(save))

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until nothing is pending; False when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._unfinished, timeout_seconds)

    def abandon(self) -> None:
        """Drop what is pending, soon; saves called for later are not touched."""
        with self._changed:
            for save in self._unfinished:
                save.abandoned.set()

    def close(self) -> None:
        """Drop what is pending and end the thread; one that waits for its storage is left alone."""
        self.abandon()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(CLOSE_SECONDS)
            if self._thread.is_alive():
                logger.warning("%s does not answer: leaving it", self._storage.location)
            self._thread = None

    def _waits_for_others(self, *, leads: bool) -> bool:
        with self._changed:
            oldest = self._unfinished[0] if self._unfinished else None
        return oldest is not None and oldest.leads is leads and oldest.written.is_set()

    def _put(self, work: Callable[[], None]) -> None:
        if self._thread is None:
            # A daemon: a process that must end does not wait for storage.
            self._thread = threading.Thread(
                target=self._serve, name="checkpoint-writer", daemon=True
            )
            self._thread.start()
        self._queue.put(work)

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            work()

    def _run(self, save: Save) -> None:
        try:
            self._save(save)
            self.written_at, self.written_step = save.begun, save.identity.step
            self.last_seconds = time.monotonic() - save.begun
            self._failed = False
        # The outermost loop of the thread: whatever went wrong, training goes on.
        except Exception as error:  # noqa: BLE001
            self._fail(save, error)
        finally:
            with self._changed:
                self._unfinished.remove(save)
                self._changed.notify_all()

    def _save(self, save: Save) -> None:
        try:
            written = self._saves.write(save)
        finally:
            if save.copied is not None:
                self._buffers.release(save.copied)
        if written and save.leads:
            self.newest = self._saves.publish(save)
            self._saves.sweep()
        elif save.with_others and not save.leads:
            self._saves.await_published(save)

    def _fail(self, save: Save, error: Exception) -> None:
        self.failures += 1
        self._failed = True
        self.last_error = error
        logger.warning(
            "checkpoint of step %d is not saved, older ones are untouched: %s",
            save.identity.step,
            self.last_failure,
            exc_info=None if isinstance(error, OSError | SaveDropped) else error,
        )
        traceback.clear_frames(error.__traceback__)  # which hold the tensors of the copy
        is_given_up = save.with_others and isinstance(error, SaveDropped)
        self._saves.withdraw(save, reason=self.last_failure, keeps_parts=is_given_up)


def _part(holding: Holding) -> dict[str, torch.Tensor]:
    """The tensors that this rank writes."""
    specs = written_by(holding.entries.values(), world_size=holding.world_size, rank=holding.rank)
    return {spec.name: holding.tensors[spec.name] for spec in specs}
