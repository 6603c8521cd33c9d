"""Where a run starts when nobody holds its state: a checkpoint, given weights, or the seed.

Collective over the round's groups: the leader chooses, all verify a share, and a damaged choice
is replaced by the next older one.
"""

import logging
from pathlib import Path

import torch
import torch.distributed as dist

from concertina_api.errors import CheckpointInvalid
from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.checkpoint.reader import find, load, open_checkpoint, verify
from concertina_trainer.checkpoint.weights import load_weights
from concertina_trainer.rounds.transport import Groups
from concertina_trainer.sharding.layout import row_range
from concertina_trainer.sharding.restore import build_whole, first_part, state_tensors
from concertina_trainer.sharding.state import Holding
from concertina_trainer.task import Task, build

log = logging.getLogger(__name__)


class Origin:
    """The state of a first start, or after a loss. Called by the keeper."""

    def __init__(
        self, spec: JobSpec, task: Task, *, job: str, path: Path, device: torch.device
    ) -> None:
        self._spec = spec
        self._task = task
        self._job = job
        self._path = path
        self._device = device

    def __call__(self, groups: Groups) -> Holding | None:
        """See rounds.transaction.Keeper.origin."""
        damaged: set[str] = set()
        while True:
            name = self._agreed_name(groups, damaged)
            if name is None:
                break
            holding = self._loaded(groups, name)
            if holding is not None:
                return holding
            damaged.add(name)
        path = self._task.weights()
        if path is not None:
            return self._from_weights(groups, path)
        if groups.rank == 0:
            log.info("no checkpoint in %s: starting from the seed %d", self._path, self._spec.seed)
            return build_whole(self._task, seed=self._spec.seed)
        return None

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
            dist.broadcast(tensor.detach(), src=0, group=groups.control)
            if name.startswith("model/"):
                start, stop = row_range(len(tensor), world_size=world_size, rank=rank)
                tensor = tensor[start:stop].clone()
            rows[name] = tensor
        if rank == 0:
            log.info("starting from the weights in %s", path)
        rows = {name: tensor.detach() for name, tensor in rows.items()}
        return first_part(rows, shapes=shapes, world_size=world_size, rank=rank)

    def _agreed_name(self, groups: Groups, damaged: set[str]) -> str | None:
        """The newest checkpoint that the leader finds, told to all."""
        names: list[str | None] = [None]
        if groups.rank == 0:
            found = find(self._path, job=self._job, exclude=damaged)
            names = [found.folder.name if found else None]
        dist.broadcast_object_list(names, src=0, group=groups.control)
        return names[0]

    def _loaded(self, groups: Groups, name: str) -> Holding | None:
        """This rank's rows, or None on all ranks when any of them found damage."""
        holding = None
        try:
            checkpoint = open_checkpoint(self._path / name, job=self._job)
            verify(checkpoint, part=groups.rank, parts=groups.world_size)
            holding = load(checkpoint, world_size=groups.world_size, rank=groups.rank)
        except CheckpointInvalid as error:
            log.warning("skipping a checkpoint: %s", error)
        sound = torch.tensor(holding is not None, dtype=torch.int32)
        dist.all_reduce(sound, op=dist.ReduceOp.MIN, group=groups.control)
        if not sound or holding is None:
            return None
        if groups.rank == 0:
            log.info("starting from checkpoint %s (step %d)", name, holding.step)
        return holding
