"""The snapshots of one worker: when one is taken, when it counts, and what is in memory.

The loop tells it of rounds and steps; the keeper offers what is in memory to a new round. Two
phases: a snapshot counts once the control plane has agreed that every rank holds both shards;
only then the older set is filled again.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.distributed as dist

from concertina_api.v1alpha1 import SnapshotFacts, SnapshotMode
from concertina_api.v1alpha1 import Snapshots as Policy
from concertina_trainer.checkpoint.interval import PRIOR_SECONDS
from concertina_trainer.pod_memory import host_memory
from concertina_trainer.rounds.agreement import State
from concertina_trainer.rounds.control import FAILED, NONE
from concertina_trainer.rounds.phases import ignore
from concertina_trainer.rounds.transport import Groups
from concertina_trainer.rounds.waiting import finish
from concertina_trainer.sharding.state import Holding
from concertina_trainer.snapshot.interval import Interval
from concertina_trainer.snapshot.memory import NUM_SETS, shortage
from concertina_trainer.snapshot.ring import Neighbours, neighbours
from concertina_trainer.snapshot.sets import SnapshotSet, shard_bytes
from concertina_trainer.snapshot.transfer import Failed, Transfer

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
"""After a snapshot that came to nothing the next one is not sooner than this."""


class Snapshots:
    """The snapshots that one worker keeps, of itself and of its neighbour."""

    def __init__(
        self,
        policy: Policy,
        *,
        workers_per_pod: int,
    ) -> None:
        self._policy = policy
        self._workers_per_pod = workers_per_pod
        self._reached: Callable[[str], None] = ignore
        self._interval = Interval(max_cost=policy.max_cost, fixed=policy.every_steps)
        self._sets = [SnapshotSet() for _ in range(NUM_SETS)]
        self._newest: SnapshotSet | None = None
        """The newest that counts; never overwritten before the next one does."""
        self._group: dist.ProcessGroup | None = None
        self._groups: Groups | None = None
        self._ring: Neighbours | None = None
        self._round = 0
        self._transfer: Transfer | Failed | None = None
        self._begun = 0.0
        self._begun_step = 0
        self._waited = 0.0
        """How long the loop waited for the snapshot under way."""
        self._waited_in_step = 0.0
        self._busy_seconds, self._busy_slots, self._busy_steps = 0.0, 0, 0
        self._seconds = 0.0
        self._break_off: Callable[[], None] = lambda: None
        self._reopen: Callable[[], dist.ProcessGroup] | None = None
        self._others_bytes: Callable[[Holding], int] = lambda _holding: 0
        self._failure = ""
        """Why the newest came to nothing; empty once another is complete."""
        self._failed_at = 0.0
        self.off = "no round has begun"
        """Why no snapshots are taken; empty when they are."""
        self._fits = True
        self._fitting_bytes = 0
        """Size of the largest shard for which all agreed that there is memory."""
        self.taken = 0
        """Snapshots that became complete."""
        self.failures = 0
        """Those that did not, though no resize broke them off."""
        self.newest_at: float | None = None
        """When the newest was taken, in seconds of time.monotonic()."""

    @property
    def facts(self) -> SnapshotFacts:
        """What the leader reports."""
        state = self._newest.state if self._newest is not None else None
        return SnapshotFacts(
            step=state.step if state is not None else None,
            every_steps=0 if self.off or self._failure else self._interval.between_steps,
            seconds=round(self._seconds, 5),
            cost=round(self._interval.cost, 6),
            num_bytes=sum(each.num_bytes for each in self._sets),
            off=(self.off or self._failure)[:512],
            fits=self._fits,
        )

    @property
    def held(self) -> int:
        """The newest step of which this worker holds both shards, in this round; see control.py."""
        if self._transfer is not None and self._transfer.ended:
            if self._transfer.error is not None:
                return FAILED
            return self._begun_step
        state = self._newest.state if self._newest is not None else None
        return state.step if state is not None and state.round == self._round else NONE

    def enter(
        self,
        groups: Groups,
        holding: Holding,
        *,
        break_off: Callable[[], None],
        reopen: Callable[[], dist.ProcessGroup],
        reached: Callable[[str], None],
        others_bytes: Callable[[Holding], int],
    ) -> None:
        """A round has begun: agree whether snapshots fit, and take the first.

        Collective over `groups`. `break_off` ends the connections of the snapshots' group, and
        `reopen` gives a fresh one, for which all ranks ask at the same step;
        `reached` is called at each point of a snapshot (see rounds/phases.py). `others_bytes`: host
        memory that this worker will yet take for other copies of such a state.
        """
        self._reached, self._reopen, self._failure = reached, reopen, ""
        self._others_bytes = others_bytes
        self._round, self._group, self._break_off = holding.round, groups.snapshot, break_off
        self._ring = neighbours(
            groups.rank, world_size=groups.world_size, workers_per_pod=self._workers_per_pod
        )
        self._groups = groups
        self._interval = self._interval.in_new_world()
        self.off = self._why_not(groups, holding)
        if self.off:
            self._give_up(self.off, rank=groups.rank)
        else:
            self.take(holding)

    def leave(self) -> None:
        """The round ends, for whatever reason: break a transfer off and wait for its thread."""
        if self._transfer is not None:
            self._transfer.cancel()
            self._break_off()
            self._transfer.join()
            self._transfer = None
        self._group = self._groups = None
        self.off = self.off or "between two rounds"

    def is_due(self, step: int) -> bool:
        """Whether a snapshot should be taken after the step that follows `step`."""
        if self.off or self._transfer is not None:
            return False
        if self._failure and time.monotonic() - self._failed_at < RETRY_SECONDS:
            return False
        return step + 1 - self._begun_step >= self._interval.every_steps

    def take(self, holding: Holding) -> None:
        """Begin a snapshot of the live state; all ranks call it after the same step."""
        if self.off or self._transfer is not None:
            return
        problem = self._shortage(holding)  # the optimizer may have got its state since the last
        if problem:
            self._give_up(problem, rank=holding.rank)
            return
        start = time.perf_counter()
        target = next(each for each in self._sets if each is not self._newest)
        try:
            self._transfer = self._transfer_of(holding, target)
        except (RuntimeError, MemoryError, OSError) as error:  # training needs no snapshot
            self._transfer = Failed(target, error)
        self._begun, self._begun_step = time.monotonic(), holding.step
        self._busy_seconds, self._busy_slots, self._busy_steps = 0.0, 0, 0
        self._waited, self._waited_in_step = time.perf_counter() - start, 0.0
        self._reached("snapshot")

    def before_update(self) -> None:
        """Wait until parameters may change."""
        if self._transfer is not None:
            start = time.perf_counter()
            self._transfer.wait_copied()
            self._waited_in_step += time.perf_counter() - start

    def after_step(
        self, held: int, *, seconds: float, slots: int, loss_seconds: float = PRIOR_SECONDS
    ) -> None:
        """A step is done, in which all agreed that everyone holds the snapshot of step `held`.

        `loss_seconds`: mean time between losses, as far as this worker has seen any.
        """
        self._interval = replace(self._interval, loss_seconds=loss_seconds)
        if self._transfer is None:
            self._interval = self._interval.after_quiet(seconds, slots=slots)
            return
        # The wait for the copy is a part of the step, and counts once.
        self._busy_seconds += seconds - self._waited_in_step
        self._busy_slots += slots
        self._busy_steps += 1
        self._waited, self._waited_in_step = self._waited + self._waited_in_step, 0.0
        if held == FAILED:
            self._fail()
        elif held >= self._begun_step:
            self._complete()

    def offers(self) -> Iterator[tuple[Holding, bool]]:
        """The parts in memory, and whether each is a neighbour's."""
        for each in self._sets:
            for shard in each.whole():
                yield shard.holding, shard is each.kept

    def keep(self, state: State | None) -> None:
        """A round is committed: only the snapshot of this state stays."""
        self._newest = None
        for each in self._sets:
            if state is not None and each.state == state:
                self._newest = each
            else:
                each.drop()

    def newest_of_round(self) -> Holding | None:
        """This worker's part of the newest snapshot of the present round that counts."""
        newest = self._newest
        if newest is None or newest.own is None or newest.own.holding.round != self._round:
            return None
        return newest.own.holding

    def _why_not(self, groups: Groups, holding: Holding) -> str:
        if self._policy.mode is SnapshotMode.OFF:
            return "spec.snapshots.mode is Off"
        if self._ring is None or groups.snapshot is None:
            return "there is no other pod to keep a copy"
        self._fitting_bytes, self._fits = -1, True
        return self._shortage(holding)

    def _shortage(self, holding: Holding) -> str:
        """Why there is no memory for shards of this size, if they are larger than those so far.

        Collective over the control group where they are, which all ranks find alike.
        """
        needed = shard_bytes(holding.entries, world_size=holding.world_size)
        if needed <= self._fitting_bytes:
            return ""
        problem = shortage(
            host_memory(),
            shard_bytes=needed,
            workers=self._workers_per_pod,
            taken=sum(each.num_bytes for each in self._sets) * self._workers_per_pod,
            others=self._others_bytes(holding) * self._workers_per_pod,
        )
        fits = torch.tensor(not problem, dtype=torch.int32)
        assert self._groups is not None
        control = self._groups.control
        work = dist.all_reduce(fits, op=dist.ReduceOp.MIN, group=control, async_op=True)
        finish(work, self._groups, control)
        self._fits = bool(fits)
        if not fits:
            return problem or "they do not fit into the memory of another pod"
        self._fitting_bytes = needed
        return ""

    def _transfer_of(self, holding: Holding, target: SnapshotSet) -> Transfer:
        assert self._reopen is not None
        assert self._ring is not None
        if self._group is None:
            self._group = self._reopen()
        target.begin(holding, charge=self._ring.charge)
        assert target.own is not None
        return Transfer(
            target,
            {name: holding.tensors[name] for name in target.own.rows},
            group=self._group,
            ring=self._ring,
            reached=self._reached,
        )

    def _give_up(self, why: str, *, rank: int) -> None:
        """None are taken before the next round: only the newest stays in memory."""
        self.off = why
        for each in self._sets:
            if each is not self._newest:
                each.free()
        if rank == 0:
            log.info("no snapshots: %s", why)

    def _complete(self) -> None:
        assert self._transfer is not None
        self._transfer.join()
        self._newest, self._transfer = self._transfer.target, None
        self.newest_at, self._failure = self._begun, ""
        self._seconds = time.monotonic() - self._begun
        self.taken += 1
        self._interval = self._interval.after_snapshot(
            self._waited,
            seconds=self._busy_seconds,
            slots=self._busy_slots,
            num_steps=self._busy_steps,
            is_bound=self._newest.grew,
        )
        self._reached("complete")

    def _fail(self) -> None:
        assert self._transfer is not None
        self._transfer.cancel()
        self._break_off()
        self._transfer.join()
        why = self._transfer.error
        self._transfer.target.drop()
        self._transfer = self._group = None
        self.failures += 1
        self._failed_at = time.monotonic()
        self._failure = f"a snapshot failed: {why or 'at another worker'}"
        log.warning("%s; the next is tried after %.0f s", self._failure, RETRY_SECONDS)
