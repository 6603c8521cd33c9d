"""The rounds of one worker: which to enter, how one begins, and what follows when it breaks.

The session asks before each step whether there is a round to train in, and tells when one broke.
Entering itself is the transaction's (rounds/transaction.py).
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto

from concertina_api.batch import identity
from concertina_api.errors import RoundFailed, TrainingFailed
from concertina_api.v1alpha1 import Intent, Membership, PodPhase
from concertina_trainer.agent.pulse import heartbeat_file
from concertina_trainer.loop.equipment import Equipment
from concertina_trainer.loop.keeper import Live
from concertina_trainer.loop.step import World
from concertina_trainer.rounds.control import Control
from concertina_trainer.rounds.phases import Phases
from concertina_trainer.rounds.transaction import Entered, enter
from concertina_trainer.rounds.transport import transport_for
from concertina_trainer.rounds.watch import Watch, present
from concertina_trainer.schedule.controller import renumbered
from concertina_trainer.sharding.collect import buffer_names
from concertina_trainer.statistics.buffers import BufferMean

log = logging.getLogger(__name__)


LAST_SAVE_SECONDS = 60.0
"""How long workers that give up waiting for an operator wait for each other's parts."""


class Ending(Enum):
    """Why the loop ended."""

    FINISHED = auto()
    LEFT = auto()
    EXCLUDED = auto()
    """A round went on without this worker; it must start anew before it may join again."""


class Rounds:
    """The way of one worker through the rounds."""

    def __init__(self, equipment: Equipment, *, reached: Callable[[str], None]) -> None:
        """`reached` is called at each point of the protocol (see rounds/phases.py)."""
        context = equipment.context
        self._context = context
        self._spec = equipment.spec
        self._keeper = equipment.keeper
        self._saver = equipment.saver
        self._reporter = equipment.reporter
        self._pacing = equipment.pacing
        self._inbox = equipment.inbox
        self._loader = equipment.loader
        self._aim = equipment.aim
        self._reached = reached
        self._transport = transport_for(context.device)
        self._watch = Watch(
            context.mailbox,
            self._transport.break_off,
            heartbeat=heartbeat_file(context.mailbox, context.local_rank),
        )
        self._membership: Membership | None = None
        self._seen: Membership | None = None
        self._pause_from: float | None = None
        self._last_sign: float | None = None
        self._told_at = 0.0
        self.tried = 0
        """Number of the newest round that this worker has entered or tried to."""
        self.world: World | None = None
        """What steps run with; None between rounds."""
        self.ending: Ending | None = None

    def settle(self) -> bool:
        """Be in a round to train in; False when this worker's part is over."""
        while self.ending is None:
            membership = self._due()
            if membership is None:
                return self.ending is None
            if self._context.name not in present(membership):
                self.ending = Ending.EXCLUDED
                continue
            if membership.members:
                self._switch(membership)
            else:
                self._leave(membership)
        return False

    def newest(self) -> int:
        """Number of the newest round that this worker sees; joiners of a new one are told."""
        newest = self._inbox.newest()
        if newest is None or newest.round <= self.tried:
            return self.tried
        if newest != self._seen:
            self._seen = newest
            self._announce(newest)
        return newest.round

    def paused(self) -> None:
        """A step or a piece of an evaluation has ended: a pause would begin now."""
        self._pause_from = time.perf_counter()

    def abandoned(self, micro_batches: int) -> None:
        """A step was dropped, to be run again in the next round."""
        self._reporter.abandoned(micro_batches)
        self.paused()
        self._retire_world()
        self._transport.close()

    def broke(
        self, error: BaseException, *, changed: bool = False, last_sign: float | None = None
    ) -> None:
        """A collective failed: hold the state and wait for a newer round.

        `changed`: the step had begun to change the state, which therefore is none any more.
        `last_sign`: when all workers were last known to be alive, in time.perf_counter().
        """
        self._last_sign = self._last_sign or last_sign or self._pause_from
        log.warning("round %d broke: %s", self.tried, error)
        self._watch.idle()
        self._transport.break_off()
        if changed:
            self.world = None
            self._keeper.snapshots.leave()
            self._keeper.forget()
        else:
            self._retire_world()
        self._transport.close()
        self._reporter.tell(phase=PodPhase.WAITING)

    def roll_back(self) -> bool:
        """Take up the newest complete snapshot of this round; all workers call it alike.

        Steps and samples go on: what was consumed since then is left out. False when there is no
        such snapshot.
        """
        snapshot = self._keeper.snapshots.newest_of_round()
        if snapshot is None or self.world is None:
            return False
        control, self.world = self.world.control, None
        self._keeper.take_up(snapshot)
        assert self._keeper.live is not None
        self.world = self._world_of(self._keeper.live, control)
        self._reporter.rolled_back(self._keeper, snapshot)
        return True

    def end(self, ending: Ending) -> None:
        """This worker's part is over."""
        self.ending = ending
        phase = PodPhase.FINISHED if ending is Ending.FINISHED else PodPhase.LEFT
        finished = self._pacing.is_finished(self._keeper.progress)
        self._reporter.ended(phase, finished=finished)

    def stop(self) -> None:
        """Watch no longer and let go of the round."""
        self._watch.stop()
        self.world = None
        self._keeper.snapshots.leave()

    def close(self) -> None:
        """End the groups in good order."""
        self._keeper.live = None
        self._transport.close()

    def aim_on(self) -> None:
        """Load ahead for the next steps of this round."""
        assert self.world is not None
        groups, progress = self.world.live.groups, self._keeper.progress
        self._aim(progress.samples, progress.global_batch_size, groups.rank, groups.world_size)

    def _due(self) -> Membership | None:
        """The membership to enter now; None to go on training in the present round."""
        if self.world is not None:
            agreed = self.world.control.collect().round
            if self._seen is None or agreed != self._seen.round or agreed <= self.tried:
                return None
            return self._seen
        return self._awaited()

    def _awaited(self) -> Membership | None:
        """Wait, without a round, for a membership that was not tried yet.

        None: the pod must end, and no round has ever counted on this worker.
        """
        started = self._membership is not None
        timeout = float(self._spec.failure_policy.arbiter_timeout_seconds) if started else None
        try:
            membership = self._inbox.await_round(self.tried, timeout=timeout)
        except TimeoutError as error:
            assert timeout is not None
            self._save_what_is_whole(within_seconds=min(timeout, LAST_SAVE_SECONDS))
            raise TrainingFailed(str(error)) from error
        if membership is None:
            self.end(Ending.LEFT)
        return membership

    def _save_what_is_whole(self, *, within_seconds: float) -> None:
        """Save without an operator; parts of a worker that is gone are not waited for as usual."""
        for holding in self._keeper.held[:1]:
            try:
                self._saver.save_now(holding, within_seconds=within_seconds)
            except TrainingFailed as error:
                log.warning("%s", error)

    def _switch(self, membership: Membership) -> None:
        phases = Phases(self._reached)
        self._told_at = time.perf_counter()
        self._retire_world()
        self.tried = self._keeper.number = membership.round
        self._watch.entering(membership.round, membership.workers())
        try:
            entered = enter(
                membership,
                me=self._context.name,
                keeper=self._keeper,
                transport=self._transport,
                superseded=lambda: self._inbox.newest_round() > membership.round,
                phases=phases,
            )
        except RoundFailed as error:
            log.warning("%s; waiting for a newer round", error)
            self._watch.idle()
            self._reporter.tell(phase=PodPhase.WAITING)
            return
        self._membership = membership
        if entered.groups is None:
            self._watch.idle()
            self.end(Ending.LEFT)
            return
        self._watch.training(membership.round, membership.workers())
        self._begin_world(entered, phases)

    def _begin_world(self, entered: Entered, phases: Phases) -> None:
        keeper, live = self._keeper, self._keeper.live
        assert live is not None
        self._saver.enter(entered.membership, rank=live.groups.rank)
        if entered.is_earlier(keeper.progress.step):
            self._renumber_requests(entered.membership.request_sequence)
        self.world = self._world_of(live, Control(live.groups.control))
        self.aim_on()
        keeper.snapshots.enter(
            live.groups,
            keeper.hold(),
            break_off=self._transport.break_off_snapshots,
            reached=self._reached,
        )
        phases.mark("begin")
        if self._pause_from is not None:
            pause = time.perf_counter() - self._pause_from
        else:
            # A joiner has no step to count from: what it saw is all but the first wait.
            pause = sum(phases.seconds.values()) - phases.seconds["greet"]
        detection = None if self._last_sign is None else self._told_at - self._last_sign
        self._last_sign = None
        self._reporter.entered(
            entered, keeper, phases=phases, pause_seconds=pause, detection_seconds=detection
        )
        if live.groups.rank == 0:
            geometry = self._pacing.geometry(keeper.progress)
            m, count = geometry.micro_batch_size, geometry.num_micro_batches
            log.info("round %d: %s", live.round, identity(m, count, live.groups.world_size))

    def _world_of(self, live: Live, control: Control) -> World:
        return World(
            live=live,
            buffers=BufferMean(buffer_names(live.model)),
            control=control,
            loader=self._loader,
            device=self._context.device,
            before_update=self._keeper.snapshots.before_update,
        )

    def _renumber_requests(self, accepted: int) -> None:
        """Number requests after those of the history that was rolled back."""
        progress = self._keeper.progress
        state = renumbered(progress.controller, accepted=accepted)
        self._keeper.progress = replace(progress, controller=state)

    def _retire_world(self) -> None:
        """Turn what is live into held rows; the groups are closed by the transaction."""
        self.world = None
        self._keeper.snapshots.leave()
        self._keeper.suspend()

    def _leave(self, membership: Membership) -> None:
        """A round without members: save what there is, then go."""
        self.tried = membership.round
        # After an abandoned step, or a round that broke whole, the state is held, not live.
        held = [self._keeper.hold()] if self._keeper.live is not None else self._keeper.held
        for holding in held[:1]:
            self._saver.save_now(holding)
        log.info("round %d has no members (%s)", membership.round, membership.intent.value)
        self.end(Ending.FINISHED if membership.intent is Intent.STOP else Ending.LEFT)

    def _announce(self, newest: Membership) -> None:
        """Tell joiners where training will go on, so that they load data ahead."""
        if self.world is not None and self.world.live.groups.rank == 0 and newest.members:
            progress = self._keeper.progress
            after = progress.samples + self._pacing.batch(progress)
            self._reporter.announce(newest, samples=after, batch=progress.global_batch_size)
