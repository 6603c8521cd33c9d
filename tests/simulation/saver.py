"""Durable checkpoints of the model. Called by the worker and its steps."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from concertina_api.errors import TrainingFailed
from concertina_api.v1alpha1 import (
    Membership,
)
from concertina_trainer.rounds.watch import present

LACKING = -1
"""In place of a rank: somebody says that it will not write its part."""

if TYPE_CHECKING:
    from tests.simulation.worker import Worker


class Saver:
    """Checkpoints: all write their parts, the leader makes the set durable (loop/saving.py)."""

    can_save = False
    """Survivors agree on a last save by files, which are not simulated: see loop/last_save.py."""
    final_seconds = 600.0

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._workers = frozenset[str]()
        self._last = worker.kernel.now
        self._pending = 0
        self._dropped: dict[int, Any] = {}
        """Those that come to nothing, by id."""

    def enter(self, membership: Membership, *, rank: int) -> None:
        """From now on saves belong to this round."""
        del rank
        self._workers = frozenset(membership.workers())

    def expects_all_of(self, membership: Membership) -> bool:
        """See Saver."""
        return self._workers <= present(membership)

    def is_due(self) -> bool:
        """Whether the leader asks for one."""
        now = self._worker.kernel.now
        return not self._pending and now - self._last >= self._worker.world.checkpoint_seconds

    def lacking_bytes(self, holding: Any) -> int:
        """Memory is not simulated."""
        del holding
        return 0

    def save(self, holding: Any) -> None:
        """Write the part, in the background."""
        kernel = self._worker.kernel
        self._last = kernel.now
        self._pending += 1
        kernel.after(kernel.some(0.01, 2.0), self._written, holding)

    def save_now(self, holding: Any) -> None:
        """Write the part and wait until it is there; of rank 0, until the checkpoint is."""
        self._await(holding, until=lambda: not self._pending, gives_up=lambda: False)

    def save_with_others(self, holding: Any, *, gives_up: Callable[[], bool]) -> bool:
        """Write the part and wait until all know that the checkpoint is durable."""
        if gives_up():
            return False
        storage, state = self._worker.world.storage, holding.tensors["state"]
        return self._await(
            holding,
            until=lambda: (storage.latest, storage.round) == (state, holding.round),
            gives_up=lambda: gives_up() or id(holding) in self._dropped,
        )

    def _await(
        self, holding: Any, *, until: Callable[[], bool], gives_up: Callable[[], bool]
    ) -> bool:
        worker = self._worker
        self.save(holding)
        end = worker.kernel.now + self.final_seconds
        while id(holding) in self._dropped or not until():
            if gives_up():
                self._dropped[id(holding)] = holding
                return False
            if id(holding) in self._dropped:
                raise TrainingFailed(f"the last checkpoint (step {holding.step}) is not saved")
            # Storage never fails here, so nobody's part is late.
            worker.world.judge.check(
                worker.kernel.now < end, f"{worker.name} waits in vain for a last checkpoint"
            )
            worker.process.pause(0.5)
        return True

    def _written(self, holding: Any) -> None:
        worker, storage = self._worker, self._worker.world.storage
        if worker.process.dead:
            return
        if worker.process.frozen:
            worker.kernel.after(1.0, self._written, holding)
            return
        ranks = storage.parts.setdefault(
            (holding.tensors["state"], holding.round, holding.world_size), {}
        )
        if id(holding) in self._dropped and holding.rank not in ranks:
            ranks[LACKING] = None
        else:
            ranks[holding.rank] = None
        self._collect(holding, ranks, worker.kernel.now + 120.0)

    def _collect(self, holding: Any, ranks: Mapping[int, None], end: float) -> None:
        """The one of rank 0 waits for all parts, then moves `latest`; others are done."""
        worker = self._worker
        if holding.rank == 0 and not worker.process.dead and id(holding) not in self._dropped:
            if LACKING in ranks:
                self._dropped[id(holding)] = holding
            elif len(ranks) < holding.world_size or worker.process.frozen:
                if worker.kernel.now < end:
                    worker.kernel.after(0.3, self._collect, holding, ranks, end)
                    return
                self._dropped[id(holding)] = holding
            elif worker.inbox.names_me() and not self._is_old(holding):
                worker.world.publishes(holding.tensors["state"], worker, round_=holding.round)
            else:
                self._dropped[id(holding)] = holding
        self._pending -= 1

    def _is_old(self, holding: Any) -> bool:
        """Whether a newer one was faster; the product's writer does one after the other."""
        storage = self._worker.world.storage
        newest = 0 if storage.latest is None else storage.latest.step
        return (holding.round, holding.step) < (storage.round, newest)
