"""The rounds of one worker: which to enter, how one begins, and what follows when it breaks.

The session asks before each step whether there is a round to train in, and tells when one broke.
Entering itself is the transaction's (rounds/transaction.py).
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from concertina_api.batch import identity
from concertina_api.errors import RoundFailed, TrainingFailed
from concertina_api.v1alpha1 import Intent, Membership, PodPhase
from concertina_trainer.agent.pulse import heartbeat_file
from concertina_trainer.loop.ending import Ending, save_last, save_without_operator
from concertina_trainer.loop.equipment import Equipment
from concertina_trainer.loop.live import Live
from concertina_trainer.loop.memberships import Memberships
from concertina_trainer.loop.pause import Pause
from concertina_trainer.loop.world import World
from concertina_trainer.rounds.control import Control
from concertina_trainer.rounds.phases import LAST_SAVE, Phases
from concertina_trainer.rounds.transaction import Entered, enter
from concertina_trainer.rounds.transport import transport_for
from concertina_trainer.rounds.watch import Watch, present
from concertina_trainer.schedule.controller import renumbered

log = logging.getLogger(__name__)


class Rounds:
    """The way of one worker through the rounds."""

    def __init__(self, equipment: Equipment, *, reached: Callable[[str], None]) -> None:
        """`reached` is called at each point of the protocol (see rounds/phases.py)."""
        context = equipment.context
        self._context = context
        self._keeper = equipment.keeper
        self._saver = equipment.saver
        self._reporter = equipment.reporter
        self._pacing = equipment.pacing
        self._memberships = Memberships(
            equipment.inbox,
            timeout_seconds=float(equipment.spec.failure_policy.arbiter_timeout_seconds),
            announce=self._announce,
        )
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
        self._pause = Pause()
        self.world: World | None = None
        """What steps run with; None between rounds."""
        self.ending: Ending | None = None

    def settle(self) -> bool:
        """Be in a round to train in; False when this worker's part is over."""
        while self.ending is None:
            if self._is_over_for_others():
                self.end(Ending.FINISHED)
                break
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

    @property
    def tried(self) -> int:
        """Number of the newest round that this worker has entered or tried to."""
        return self._memberships.tried

    def newest(self) -> int:
        """Number of the newest round that this worker sees; joiners of a new one are told."""
        return self._memberships.newest()

    def paused(self) -> None:
        """A step or a piece of an evaluation has ended: a pause would begin now."""
        self._pause.stepped()

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
        self._pause.broke(last_sign=last_sign)
        log.warning("round %d broke: %s", self.tried, error)
        self._watch.idle()
        self._transport.break_off()
        if self.world is not None:
            self.world.control.drop()
        if changed:
            self._keeper.forget()
        self._retire_world()
        self._transport.close()
        self._reporter.tell(phase=PodPhase.WAITING)

    def roll_back(self) -> None:
        """Take up the newest complete snapshot of this round, if any; all workers call it alike.

        A newer checkpoint goes before it: snapshots may have come to nothing for long.
        Steps and samples go on: what was consumed since then is left out.
        """
        assert self.world is not None
        snapshot = self._keeper.snapshots.newest_of_round()
        if snapshot is None:
            log.warning("there is no snapshot of this round to go back to")
            return
        self._keeper.snapshots.before_update()  # one that is under way still reads the parameters
        taken_up = self._keeper.take_up(snapshot)
        self.world = self._world_of(self.world.live, self.world.control)
        self._reporter.rolled_back(self._keeper, taken_up)

    def finish(self) -> None:
        """All samples are consumed: save the last state with the others of the round, and end.

        Where there is a newer round before that is done, its members do so.
        """
        self._reporter.tell()  # that no step follows
        self._reached(LAST_SAVE)
        if self._saver.save_with_others(self._keeper.hold(), gives_up=self._is_round_over):
            self.end(Ending.FINISHED)
        else:
            self.broke(RoundFailed("the others did not save the last state with this worker"))

    def end(self, ending: Ending) -> None:
        """This worker's part is over."""
        self.ending = ending
        phase = PodPhase.FINISHED if ending is Ending.FINISHED else PodPhase.LEFT
        is_at_end = self._pacing.is_finished(self._keeper.progress)
        self._reporter.ended(phase, finished=ending is Ending.FINISHED and is_at_end)

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

    def _is_over_for_others(self) -> bool:
        """Whether this worker gave up to wait for the last checkpoint, and it was durable after all.

        Another worker of its pod has seen that and has ended, so no round can be entered any more.
        In a round without members that word means less: each has saved its own part.
        """
        if self.world is not None or not self._pacing.is_finished(self._keeper.progress):
            return False
        newest = self._memberships.newer()
        return (newest is None or bool(newest.members)) and self._inbox.sees_finished()

    def _is_round_over(self) -> bool:
        """Whether others may wait in a newer round, or somebody of this one is gone.

        A last save that all take part in goes on when they are told to stop.
        """
        newest = self._memberships.newer()
        return newest is not None and (
            bool(newest.members) or not self._saver.expects_all_of(newest)
        )

    def _due(self) -> Membership | None:
        """The membership to enter now; None to go on training in the present round."""
        if self.world is not None:
            return self._memberships.agreed(self.world.control.collect().round)
        return self._awaited()

    def _awaited(self) -> Membership | None:
        """Wait, without a round, for a membership that was not tried yet.

        None: the pod must end, and no round has ever counted on this worker.
        """
        try:
            membership = self._memberships.awaited()
        except TimeoutError as error:
            patience = self._memberships.timeout_seconds
            save_without_operator(self._keeper, self._saver, within_seconds=patience)
            raise TrainingFailed(str(error)) from error
        if membership is None:
            self.end(Ending.LEFT)
        return membership

    def _switch(self, membership: Membership) -> None:
        phases = Phases(self._reached)
        self._pause.told()
        self._retire_world()
        self._memberships.entering(membership.round)
        self._keeper.number = membership.round
        self._watch.entering(membership.round, membership.workers())
        try:
            entered = enter(
                membership,
                me=self._context.name,
                keeper=self._keeper,
                transport=self._transport,
                superseded=self._memberships.is_overtaken,
                phases=phases,
            )
        except RoundFailed as error:
            log.warning("%s; waiting for a newer round", error)
            self._watch.idle()
            self._reporter.tell(phase=PodPhase.WAITING)
            return
        self._memberships.entered()
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
        self.world = self._world_of(live, Control(live.groups))
        self.aim_on()
        keeper.snapshots.enter(
            live.groups,
            keeper.hold(),
            break_off=self._transport.break_off_snapshots,
            reopen=self._transport.reopen_snapshots,
            reached=self._reached,
            others_bytes=self._saver.lacking_bytes,
        )
        phases.mark("begin")
        pause, detection = self._pause.end(phases)
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
        self._memberships.tried = membership.round
        save_last(self._keeper, self._saver, membership=membership)
        log.info("round %d has no members (%s)", membership.round, membership.intent.value)
        self.end(Ending.FINISHED if membership.intent is Intent.STOP else Ending.LEFT)

    def _announce(self, newest: Membership) -> None:
        """Tell joiners where training will go on, so that they load data ahead."""
        if self.world is not None and self.world.live.groups.rank == 0 and newest.members:
            progress = self._keeper.progress
            after = progress.samples + self._pacing.batch(progress)
            self._reporter.announce(newest, samples=after, batch=progress.global_batch_size)
