"""Enters a round: everybody greets, rows move, the new world is built, the leader commits.

Until the commit the old state stays where it was, so a failure at any point returns to it and the
worker waits for the next round. After the commit the old state is dropped and leavers are free.
The loop calls `enter`; what state is and how objects are built from it is the keeper's business.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore

from concertina_api.errors import RoundFailed, TrainingFailed
from concertina_api.v1alpha1 import Membership, workers_of
from concertina_trainer.rounds.agreement import (
    Losses,
    Source,
    State,
    disagreement,
    kept_of,
    losses_of,
    source_of,
)
from concertina_trainer.rounds.desk import Desk, connect, tell_soon
from concertina_trainer.rounds.keeper import Keeper
from concertina_trainer.rounds.phases import Phases
from concertina_trainer.rounds.transport import Groups, Transport, is_broken
from concertina_trainer.rounds.waiting import CLOSING_SECONDS, finish
from concertina_trainer.sharding.exchange import Route, exchange
from concertina_trainer.sharding.header import decode_header, encode_header
from concertina_trainer.sharding.state import Holding

STORE_TIMEOUT = timedelta(seconds=30)
ANNOUNCE_TIMEOUT = timedelta(seconds=1)
"""The announcement is made within a step: better unheard than late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered:
    """A committed round, as this worker sees it."""

    membership: Membership
    groups: Groups | None
    """None for a leaver: it holds nothing any more."""
    source: Source | None
    """None when the state came from a checkpoint or from the seed."""
    losses: Losses

    def is_earlier(self, step: int) -> bool:
        """Whether the run goes on from `step` as from an earlier moment.

        Also when no step is lost that anybody knows of: who is lost may have told of a later one.
        """
        lost = self.losses.workers > 0 or self.losses.step > step
        return self.source is None or lost


def enter(
    membership: Membership,
    *,
    me: str,
    keeper: Keeper,
    transport: Transport,
    superseded: Callable[[], bool],
    phases: Phases,
) -> Entered:
    """Enter the round of `membership` together with everyone it names.

    Raises RoundFailed when the round broke or was given up: the state is as before, no group is
    open. Raises TrainingFailed when the participants' states contradict each other.
    """
    try:
        return _Entry(membership, me, keeper, transport, superseded, phases).run()
    except (RuntimeError, RoundFailed) as error:
        transport.break_off()
        transport.close()
        if isinstance(error, RoundFailed) or is_broken(error):
            raise RoundFailed(f"round {membership.round} broke: {error}") from error
        raise


class _Entry:
    def __init__(
        self,
        membership: Membership,
        me: str,
        keeper: Keeper,
        transport: Transport,
        superseded: Callable[[], bool],
        phases: Phases,
    ) -> None:
        self.membership = membership
        self.keeper = keeper
        self.transport = transport
        self.superseded = superseded
        self.phases = phases
        self.expecting = False
        self.kept: State | None = None
        self.members = membership.workers()
        self.participants = (*self.members, *workers_of(membership.leaving))
        leader = membership.members[0]
        with transport.recorded():
            store = connect(leader.host, leader.port, timeout=STORE_TIMEOUT)
        self.desk = Desk(store, number=membership.round, participants=self.participants, me=me)
        self.rank = self.desk.index if self.desk.index < len(self.members) else None

    def run(self) -> Entered:
        greetings = self.desk.greet(self.keeper.greeting(), superseded=self._waits_in_vain)
        source, losses = source_of(greetings), losses_of(greetings)
        self.kept = kept_of(greetings[: len(self.members)])
        if source is not None and (problem := disagreement(source, greetings)):
            raise TrainingFailed(problem)
        self.transport.close()  # everyone has greeted, so nobody waits in the old round any more
        self.phases.mark("greet")
        if source is None:
            # Nobody holds a whole state: leavers have nothing to hand over.
            self.participants = self.members
            if self.rank is None:
                self._commit()
                return Entered(membership=self.membership, groups=None, source=None, losses=losses)
        groups = self._open("exchange", self.desk.index, len(self.participants))
        self.phases.mark("open")
        source, part = self._start(groups, source)
        self.phases.mark("exchange")
        final = self._training_groups(groups)
        if final is not None:
            assert part is not None
            self.keeper.build(final, part)
        del part
        self.phases.mark("build")
        self._commit()
        return Entered(membership=self.membership, groups=final, source=source, losses=losses)

    def _waits_in_vain(self) -> bool:
        """While others finish their step, a joiner may learn where training will go on."""
        if self.rank is not None and not self.expecting:
            soon = self.desk.told("soon")
            if soon is not None:
                self._expect(soon["samples"], soon["batch"])
        return self.superseded()

    def _expect(self, samples: int, batch: int) -> None:
        """Training will go on here: data may be loaded while rows move."""
        assert self.rank is not None
        self.expecting = True
        self.keeper.expect(samples, batch=batch, rank=self.rank, world_size=len(self.members))

    def _open(self, name: str, rank: int, world_size: int) -> Groups:
        store = PrefixStore(f"{name}/", self.desk.store)
        return self.transport.open(store, rank=rank, world_size=world_size)

    def _start(self, groups: Groups, source: Source | None) -> tuple[Source | None, Holding | None]:
        """What the round starts from, and this rank's part of it.

        What was held at the last step is the newest there is; a snapshot may be older than a
        checkpoint, and then counts only if no such checkpoint is sound.
        """
        if source is None:
            return None, self._from_origin(groups)
        if source.snapshot:
            loaded = self.keeper.newer(groups, source.state, world_size=len(self.members))
            if loaded is not None:
                return None, loaded.part
        return source, self._from_memory(source)

    def _from_memory(self, source: Source) -> Holding | None:
        held = self.keeper.holdings(source)
        mine = {
            rank: held[rank]
            for rank, holder in enumerate(source.holders)
            if holder == self.desk.index
        }
        newcomers = [n for n in range(len(self.members)) if n not in source.holders]
        header = self._header(mine, source.holders[0], newcomers)
        return self._exchange(mine, source.holders, newcomers, header, step=source.step)

    def _from_origin(self, groups: Groups) -> Holding | None:
        """Start from a checkpoint, which all read, or from the seed, which the leader spreads."""
        found = self.keeper.origin(groups)
        world_size = len(self.members)
        if found is not None and (found.world_size, found.rank) == (world_size, self.rank):
            return found
        newcomers = range(1, world_size)
        mine = {} if found is None else {0: found}
        return self._exchange(mine, (0,), newcomers, self._header(mine, 0, newcomers), step=0)

    def _header(
        self, mine: Mapping[int, Holding], teller: int, newcomers: Sequence[int]
    ) -> dict[str, Any]:
        """What the state consists of; told by one holder to those who have nothing."""
        if not mine:
            told: dict[str, Any] = self.desk.ask("header", superseded=self.superseded)
            return told
        header = encode_header(next(iter(mine.values())))
        if newcomers and self.desk.index == teller:
            self.desk.tell("header", header)
        return header

    def _exchange(
        self,
        mine: Mapping[int, Holding],
        holders: tuple[int, ...],
        newcomers: Sequence[int],
        header: dict[str, Any],
        *,
        step: int,
    ) -> Holding | None:
        entries, extra = decode_header(header)
        if self.rank is not None and "progress" in extra:
            progress = extra["progress"]
            self._expect(progress["samples"], progress["globalBatchSize"])
        route = Route(holders=holders, receivers=range(len(self.members)), without_state=newcomers)
        with torch.no_grad():
            tensors = exchange(
                entries,
                mine,
                route=route,
                group_rank=self.desk.index,
                device=self.transport.device,
            )
        if self.rank is None:
            return None
        return Holding(
            round=self.membership.round,
            step=step,
            world_size=len(self.members),
            rank=self.rank,
            entries=entries,
            tensors=tensors,
            extra=extra,
        )

    def _training_groups(self, groups: Groups) -> Groups | None:
        """The groups that train: those of the exchange, unless leavers sit in them."""
        if len(self.participants) == len(self.members):
            return groups
        control = groups.control
        work = dist.barrier(group=control, async_op=True)
        finish(work, groups, control, grace_seconds=CLOSING_SECONDS)
        self.transport.close()
        if self.rank is None:
            return None
        return self._open("training", self.rank, len(self.members))

    def _commit(self) -> None:
        ranks = range(len(self.members))
        self.phases.mark("done")
        if not self.desk.finish(new_ranks=ranks, superseded=self.superseded):
            self.keeper.roll_back()
            raise RoundFailed(f"round {self.membership.round} was given up before its commit")
        self.keeper.commit(self.kept)
        self.phases.mark("commit")


def announce(membership: Membership, *, samples: int, batch: int) -> None:
    """Tell those who wait in a round at which sample training will go on, and with which batch.

    Called by the leader of the round before, a step ahead of the switch. Raises RoundFailed.
    """
    leader = membership.members[0]
    store = connect(leader.host, leader.port, timeout=ANNOUNCE_TIMEOUT)
    tell_soon(store, membership.round, {"samples": samples, "batch": batch})
