"""Where a run starts when memory holds no newer state: a checkpoint, given weights, or the seed.

Collective over the round's groups: the leader chooses, all verify a share, and a damaged choice
is replaced by the next older one. A storage that cannot be read is waited for: what lies there is
never taken for lost, and a job with checkpoints never starts anew because of it.
"""

import json
import logging
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from concertina_api.errors import CheckpointInvalid, StorageUnavailable, TrainingFailed
from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.checkpoint.format import Identity
from concertina_trainer.checkpoint.reader import find, load, open_checkpoint, verify
from concertina_trainer.checkpoint.storage import Storage
from concertina_trainer.checkpoint.weights import load_weights
from concertina_trainer.rounds.agreement import State
from concertina_trainer.rounds.keeper import Loaded
from concertina_trainer.rounds.transport import Groups
from concertina_trainer.rounds.waiting import finish
from concertina_trainer.sharding.layout import row_range
from concertina_trainer.sharding.messages import deliver
from concertina_trainer.sharding.restore import build_whole, first_part, state_tensors
from concertina_trainer.sharding.state import Holding
from concertina_trainer.task import Task, build

log = logging.getLogger(__name__)

STORAGE_SECONDS = 300.0
"""How long a storage that cannot be read is asked again."""
PAUSE_SECONDS = 5.0
"""Between two tries."""


class _Found(IntEnum):
    """What a rank made of the chosen checkpoint; the worst of all ranks counts."""

    UNREADABLE = 0
    DAMAGED = 1
    SOUND = 2


class Origin:
    """The state of a first start, or after a loss. Called by the keeper."""

    def __init__(
        self,
        spec: JobSpec,
        task: Task,
        *,
        job: str,
        storage: Storage,
        device: torch.device,
        written_step: Callable[[], int],
    ) -> None:
        """`written_step`: of the newest state of which this worker has saved its part."""
        self._spec = spec
        self._task = task
        self._job = job
        self._storage = storage
        self._device = device
        self._written_step = written_step
        self._error: OSError | None = None
        """Why this worker could not read the storage in the present try."""

    def __call__(self, groups: Groups) -> Holding | None:
        """See rounds.keeper.Keeper.origin."""
        loaded = self._from_checkpoint(groups, world_size=groups.world_size)
        if loaded is not None:
            return loaded.part
        path = self._task.weights()
        if path is not None:
            return self._from_weights(groups, path)
        if groups.rank == 0:
            log.info(
                "no checkpoint in %s: starting from the seed %d",
                self._storage.location,
                self._spec.seed,
            )
            return build_whole(self._task, seed=self._spec.seed)
        return None

    def newer(
        self, groups: Groups, snapshot: State, *, world_size: int, before: int | None = None
    ) -> Loaded | None:
        """See rounds.keeper.Keeper.newer; with `before` only one of an earlier step.

        The storage is asked only when a checkpoint may be there: workers of the snapshot have
        saved their parts of every later one. Raises TrainingFailed as a start does when it cannot
        be read: the snapshot would cost the steps up to the checkpoint.
        """
        if -_least(-self._written_step(), groups) <= snapshot.step:
            return None

        def counts(found: Identity) -> bool:
            # Rounds before steps: a later step of an earlier round was given up by all who go on.
            is_ahead = (found.round, found.step) > (snapshot.round, snapshot.step)
            return is_ahead and (before is None or found.step < before)

        return self._from_checkpoint(groups, world_size=world_size, counts=counts)

    def _from_checkpoint(
        self,
        groups: Groups,
        *,
        world_size: int,
        counts: Callable[[Identity], bool] = lambda _: True,
    ) -> Loaded | None:
        """The newest sound checkpoint for a world of that size; None on all ranks if there is none.

        Also None when the newest is not one that `counts`. Raises TrainingFailed when the storage
        cannot be read for STORAGE_SECONDS.
        """
        damaged: set[str] = set()
        end = time.monotonic() + STORAGE_SECONDS
        while True:
            name, trouble = self._agreed_name(groups, damaged, counts)
            if name is not None:
                found, part = self._loaded(groups, name, world_size=world_size)
                if found is _Found.SOUND:
                    return Loaded(part=part)
                if found is _Found.DAMAGED:
                    damaged.add(name)
                    continue
                trouble = "a worker cannot read it"
            elif not trouble:
                return None
            self._wait_for_storage(groups, trouble, end)

    def _wait_for_storage(self, groups: Groups, trouble: str, end: float) -> None:
        """Pause before the next try. Raises TrainingFailed on all ranks after `end`.

        Who has met the error itself gives it as the cause, which says whose fault it is; the
        others blame nobody.
        """
        over = torch.tensor(time.monotonic() > end, dtype=torch.int32)
        _give(over, groups)
        where = self._storage.location
        if over:
            told = (
                f"the checkpoints in {where} cannot be read for {STORAGE_SECONDS:.0f} s: {trouble}"
            )
            if self._error is None:
                raise StorageUnavailable(told)
            raise TrainingFailed(told) from self._error
        if groups.rank == 0:
            log.warning("the checkpoints in %s cannot be read, trying again: %s", where, trouble)
            time.sleep(PAUSE_SECONDS)

    def _from_weights(self, groups: Groups, path: Path) -> Holding:
        """This rank's rows of the given weights; what they lack is the leader's, from the seed."""
        with torch.device("meta"):
            built = build(self._task)
        world_size, rank = groups.world_size, groups.rank
        rows = load_weights(path, built, world_size=world_size, rank=rank)
        shapes = state_tensors(built.model)
        missing = [name for name in shapes if name not in rows]
        initial = build_whole(self._task, seed=self._spec.seed) if missing and rank == 0 else None
        for name in missing:
            tensor = torch.empty_like(shapes[name], device="cpu")
            if initial is not None:
                tensor.copy_(initial.tensors[name])
            _give(tensor.detach(), groups)
            if name.startswith("model/"):
                start, stop = row_range(len(tensor), world_size=world_size, rank=rank)
                tensor = tensor[start:stop].clone()
            rows[name] = tensor
        if rank == 0:
            log.info("starting from the weights in %s", path)
        rows = {name: tensor.detach() for name, tensor in rows.items()}
        return first_part(rows, shapes=shapes, world_size=world_size, rank=rank)

    def _agreed_name(
        self, groups: Groups, damaged: set[str], counts: Callable[[Identity], bool]
    ) -> tuple[str | None, str]:
        """The newest checkpoint that the leader finds, told to all; or why it cannot look."""
        name, trouble = None, ""
        self._error = None
        if groups.rank == 0:
            try:
                found = find(self._storage, job=self._job, exclude=damaged)
                if found is not None and counts(found.manifest.identity):
                    name = found.name
            except OSError as error:
                trouble = str(error) or type(error).__name__
                self._error = error.with_traceback(None)
        name, trouble = _told([name, trouble], groups)
        return name, trouble

    def _loaded(
        self, groups: Groups, name: str, *, world_size: int
    ) -> tuple[_Found, Holding | None]:
        """This rank's rows, if all ranks found theirs sound; a leaver needs none."""
        rank = groups.rank
        part, found = None, _Found.SOUND
        try:
            if rank < world_size:
                part = self._rows(name, world_size=world_size, rank=rank)
        except CheckpointInvalid as error:
            log.warning("skipping a checkpoint: %s", error)
            found = _Found.DAMAGED
        except OSError as error:
            log.warning("checkpoint %s cannot be read: %s", name, error)
            found = _Found.UNREADABLE
            self._error = error.with_traceback(None)  # without what was read so far
        found = _Found(_least(found, groups))
        if found is _Found.SOUND and part is not None and rank == 0:
            log.info("starting from checkpoint %s (step %d)", name, part.step)
        return found, part

    def _rows(self, name: str, *, world_size: int, rank: int) -> Holding:
        """What `rank` holds of a checkpoint. Raises CheckpointInvalid, OSError."""
        checkpoint = open_checkpoint(self._storage.within(name), job=self._job)
        if checkpoint.manifest.identity.world_size != world_size:
            verify(checkpoint, part=rank, parts=world_size)
        return load(checkpoint, world_size=world_size, rank=rank)


def _least(number: int, groups: Groups) -> int:
    """The smallest of what all ranks give."""
    least, control = torch.tensor(number, dtype=torch.int64), groups.control
    work = dist.all_reduce(least, op=dist.ReduceOp.MIN, group=control, async_op=True)
    finish(work, groups, control)
    return int(least)


def _told(answer: Any, groups: Groups) -> Any:
    """What the leader gives, in JSON, to everyone."""
    text = torch.frombuffer(bytearray(json.dumps(answer).encode()), dtype=torch.uint8)
    size = torch.tensor(len(text), dtype=torch.int64)
    _give(size, groups)
    if groups.rank != 0:
        text = torch.empty(int(size), dtype=torch.uint8)
    _give(text, groups)
    return json.loads(bytes(text.tolist()))


def _give(tensor: torch.Tensor, groups: Groups) -> None:
    """Give everyone the leader's values; in a broadcast a death may keep gloo waiting."""
    if groups.rank == 0:
        others = range(1, groups.world_size)
        deliver([dist.P2POp(dist.isend, tensor, other, groups.control) for other in others])
    else:
        deliver([dist.P2POp(dist.irecv, tensor, 0, groups.control)])
