"""One worker's saves, as they change the storage: written, published, or taken back.

Called by the writer's thread (checkpoint/writer.py), one save at a time; the steps themselves are
in checkpoint/publish.py. What lasts from one save to the next is what `latest` may name before it
is moved, and which failed saves are still to be cleared away.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import SavedCheckpoint
from concertina_trainer.checkpoint import format as fmt
from concertina_trainer.checkpoint import publish
from concertina_trainer.checkpoint.host_copy import HostCopy
from concertina_trainer.checkpoint.retention import remove_obsolete
from concertina_trainer.checkpoint.storage import Storage
from concertina_trainer.sharding.state import Holding

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint that this worker published; only a leader publishes."""

    checkpoint: SavedCheckpoint
    begun: float
    """When its state was copied, in seconds of time.monotonic()."""
    seconds: float
    """From there until it was durable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """A state on its way to become a checkpoint."""

    identity: fmt.Identity
    begun: float
    """When it was copied, in seconds of time.monotonic()."""
    facts: Holding
    """The holding without its tensors, which must be free to go in a resize."""
    copied: HostCopy | None
    """None: there was no memory for a copy."""
    may_publish: Callable[[], bool]
    with_others: bool
    """It is over when the leader has made it a checkpoint, not when this part is written."""
    written: threading.Event = field(default_factory=threading.Event)
    """This worker's part is there."""
    abandoned: threading.Event = field(default_factory=threading.Event)

    @property
    def leads(self) -> bool:
        """Whether this worker makes the parts of all ranks a checkpoint."""
        return self.facts.rank == 0

    def proceed(self) -> None:
        """Raise SaveDropped when nobody wants this save any more."""
        if self.abandoned.is_set():
            raise publish.SaveDropped("it was abandoned")


class Saves:
    """What one worker does to the checkpoints of its job."""

    def __init__(self, storage: Storage, *, job: str, keep: int, deadline_seconds: float) -> None:
        """See Writer. Raises InvalidJob."""
        self._storage = storage
        self._job = job
        self._keep = keep
        self._deadline_seconds = deadline_seconds
        self._withdrawn: list[fmt.Identity] = []
        self._expected_latest: str | None = None
        with contextlib.suppress(OSError):
            self._expected_latest = publish.named(publish.read_latest(storage))
            if (owner := publish.owner(storage)) not in (None, job):
                raise InvalidJob(
                    f"checkpoint.path: {storage.location} holds checkpoints of the job {owner};"
                    f" {job} needs a folder of its own"
                )

    def write(self, save: Save) -> bool:
        """Write this worker's part; False when this very state was saved before.

        Raises SaveDropped, OSError, ValueError.
        """
        if save.leads:
            self.sweep(beside=save.identity)
        if self._is_complete(save.identity):
            return False
        if save.copied is None:
            raise publish.SaveDropped(
                "two saves are still being written: the storage is slower than the interval"
            )
        publish.write_part(
            self._storage, save.copied.holding, identity=save.identity, proceed=save.proceed
        )
        save.written.set()
        return True

    def publish(self, save: Save) -> Saved:
        """Wait for the parts of all ranks and make them a checkpoint.

        Raises SaveDropped, OSError, ValueError.
        """
        identity = save.identity
        pause = publish.patience(
            deadline_seconds=self._deadline_seconds,
            sleep=save.abandoned.wait,
            check=lambda: self._allow(save),
        )
        files = publish.collect(self._storage, identity=identity, pause=pause)
        publish.complete(
            self._storage,
            identity=identity,
            entries=save.facts.entries,
            extra=save.facts.extra,
            files=files,
            allow=lambda: self._allow(save),
        )
        self._expected_latest = identity.folder
        folder = self._storage.within(identity.folder).location
        logger.info(
            "checkpoint of step %d, %d samples: %s", identity.step, identity.samples, folder
        )
        return Saved(
            checkpoint=SavedCheckpoint(step=identity.step, samples=identity.samples, path=folder),
            begun=save.begun,
            seconds=time.monotonic() - save.begun,
        )

    def await_published(self, save: Save) -> None:
        """Wait until the leader has made a checkpoint of the parts of all ranks.

        Who called for it says for how long. Raises SaveDropped.
        """

        def pause(seconds: float) -> None:
            save.abandoned.wait(seconds)
            save.proceed()

        publish.await_latest(self._storage, identity=save.identity, pause=pause)

    def withdraw(self, save: Save, *, reason: str, keeps_parts: bool = False) -> None:
        """Take back a save that failed, and let the leader know. Never raises.

        `keeps_parts`: the same state may be saved again, by parts that are there already.
        """
        if save.leads:
            if not keeps_parts:
                publish.withdraw(self._storage, identity=save.identity)
            # Another rank may write its part after this: once more before the next save.
            self._withdrawn.append(save.identity)
        elif not save.written.is_set():  # a part that is there may be in a checkpoint by now
            publish.report_failure(
                self._storage, identity=save.identity, rank=save.facts.rank, reason=reason
            )

    def sweep(self, *, beside: fmt.Identity | None = None) -> None:
        """Remove old checkpoints and what failed saves left; a failure only costs space.

        `beside` is being saved: other ranks may have written their parts of it.
        """
        for identity in self._withdrawn:
            if identity != beside:
                publish.withdraw(self._storage, identity=identity)
        self._withdrawn.clear()
        try:
            remove_obsolete(
                self._storage,
                job=self._job,
                keep=self._keep,
                abandoned_seconds=self._deadline_seconds,
                beside=None if beside is None else beside.folder,
            )
        except OSError as error:
            logger.warning("cannot remove old checkpoints in %s: %s", self._storage.location, error)

    def _allow(self, save: Save) -> bytes | None:
        """What `latest` holds. Raises SaveDropped when this worker must not move it to this save.

        Besides leaving, another leader may have been faster: then `latest` must not go back. Rounds
        count before steps: who was excluded and cannot read that may have trained on, further than
        those who went on without it. What `latest` named when this worker started, or what this
        worker published, it may always leave, also for an earlier step: that is a restart.
        """
        save.proceed()
        if not save.may_publish():
            raise publish.SaveDropped("this worker is not a member of the newest round")
        content = publish.read_latest(self._storage)
        latest = publish.named(content)
        newest = fmt.parse_folder_name(latest or "")
        own = save.identity.round, save.identity.step
        if newest and latest != self._expected_latest and (newest.round, newest.step) >= own:
            raise publish.SaveDropped(f"{latest} is newer")
        return content

    def _is_complete(self, identity: fmt.Identity) -> bool:
        """Whether this very state was saved before: the same step of the same world."""
        try:
            return self._storage.within(identity.folder).size(fmt.MANIFEST) > 0
        except FileNotFoundError:
            return False
