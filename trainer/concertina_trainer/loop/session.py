"""The training loop: steps, and between them whatever the membership asks for.

    with session("job.yaml", task) as training:
        for step in training:                       # a resize may happen between two turns
            with step:                              # leaving it finishes the step
                for batch in step.micro_batches():
                    step.backward(task.loss(step.model, batch))

`concertina_trainer.worker` drives it for a job whose spec names a task; a script may do so
itself. A resize builds new module, parameter and optimizer objects: keep no reference to them
across turns.
"""

import gc
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum, auto
from types import TracebackType
from typing import Self

from concertina_api.batch import identity
from concertina_api.errors import RoundFailed, TrainingFailed
from concertina_api.v1alpha1 import Intent, JobSpec, Membership, PodPhase
from concertina_trainer.data.loader import Loader
from concertina_trainer.loop.context import WorkerContext
from concertina_trainer.loop.evaluation import Evaluation
from concertina_trainer.loop.inbox import Inbox
from concertina_trainer.loop.keeper import StateKeeper
from concertina_trainer.loop.origin import Origin
from concertina_trainer.loop.pacing import Pacing
from concertina_trainer.loop.progress import Progress
from concertina_trainer.loop.reporting import Reporter, StepFacts
from concertina_trainer.loop.saving import Saver
from concertina_trainer.loop.status import StatusBoard
from concertina_trainer.loop.step import Step, StepResult, World, beat_every
from concertina_trainer.rounds.control import Control, Flags
from concertina_trainer.rounds.phases import Phases, ignore
from concertina_trainer.rounds.transaction import Entered, enter
from concertina_trainer.rounds.transport import is_broken, transport_for
from concertina_trainer.rounds.watch import Watch, present
from concertina_trainer.schedule.controller import BatchController, renumbered
from concertina_trainer.schedule.estimator import StepStatistics
from concertina_trainer.sharding.collect import buffer_names
from concertina_trainer.statistics.buffers import BufferMean
from concertina_trainer.task import Task

log = logging.getLogger(__name__)

ARBITER_TIMEOUT_SECONDS = 600.0
"""How long a worker that holds state waits for a membership after its round broke."""


class Ending(Enum):
    """Why the loop ended."""

    FINISHED = auto()
    LEFT = auto()
    EXCLUDED = auto()
    """A round went on without this worker; it must start anew before it may join again."""


class Session:
    """One worker's part in a training run."""

    def __init__(
        self,
        spec: JobSpec,
        task: Task,
        context: WorkerContext,
        *,
        job: str,
        total_samples: int,
        loader: Loader,
        board: StatusBoard,
        reached: Callable[[str], None] = ignore,
    ) -> None:
        """`reached` is called at each point of the protocol (see rounds/phases.py)."""
        self._spec = spec
        self._context = context
        self._pacing = Pacing(spec, task, total_samples=total_samples)
        self._loader = loader
        self._reached = reached
        self._inbox = Inbox(context)
        self._transport = transport_for(context.device)
        self._watch = Watch(context.mailbox, self._transport.break_off)
        self._controller = BatchController.of(
            spec.batch,
            total_samples=total_samples,
            warmup_samples=spec.learning_rate.warmup_samples,
        )
        self._saver = Saver(
            spec,
            job=job,
            run_dir=context.run_dir,
            may_publish=self._inbox.names_me,
            shares_storage=context.shares_storage,
        )
        self._reporter = Reporter(
            spec, task, context, controller=self._controller, saver=self._saver, board=board
        )
        initial = Progress(
            global_batch_size=spec.batch.initial,
            controller=self._controller.start(),
            evaluation_losses={},
        )
        self.keeper = StateKeeper(
            spec,
            task,
            device=context.device,
            controller=self._controller,
            initial=initial,
            find_origin=Origin(spec, task, job=job, path=self._saver.path, device=context.device),
            expect=self._aim,
        )
        self._evaluation = Evaluation(
            task,
            micro_batch_size=spec.batch.micro_batch_size,
            every_samples=spec.training.evaluate_every_samples,
            device=context.device,
        )
        self._world: World | None = None
        self._membership: Membership | None = None
        self._seen: Membership | None = None
        self._tried = 0
        self._pause_from: float | None = None
        self._stop = False
        self._waited = 0.0
        self._checked = False
        self.ending: Ending | None = None

    @property
    def round(self) -> int:
        """Number of the newest round that this worker has entered or tried to."""
        return self._tried

    @property
    def progress(self) -> Progress:
        """Where the run is."""
        return self.keeper.progress

    def __enter__(self) -> Self:
        gc.collect()
        gc.freeze()  # what is alive now stays; the collections of every resize need not look at it
        self._reporter.tell(phase=PodPhase.WARM)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watch.stop()
        self._saver.close()
        self._loader.close()
        self._world = None
        if error is None:
            self.keeper.live = None
            self._transport.close()

    def __iter__(self) -> Iterator[Step]:
        while self.ending is None:
            try:
                step = self._step_or_duty()
            except Exception as error:
                if not is_broken(error):
                    raise
                self._broke(error, changed=False)
                continue
            if step is not None:
                yield step
                self._after(step)
                step.release()
                step = None

    def _step_or_duty(self) -> Step | None:
        """The next step; or None, when something else was due before it and is done now."""
        if not self._settle():
            return None
        finished = self._pacing.is_finished(self.progress)
        if self._evaluation.is_due(self.progress, finished=finished):
            self._evaluate()
            return None
        if finished:
            self._saver.save_now(self.keeper.hold())
            self._end(Ending.FINISHED)
            return None
        return self._next_step()

    # Rounds

    def _settle(self) -> bool:
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

    def _due(self) -> Membership | None:
        """The membership to enter now; None to go on training in the present round."""
        if self._world is not None:
            agreed = self._world.control.collect().round
            if self._seen is None or agreed != self._seen.round or agreed <= self._tried:
                return None
            return self._seen
        return self._awaited()

    def _awaited(self) -> Membership | None:
        """Wait, without a round, for a membership that was not tried yet.

        None: the pod must end, and no round has ever counted on this worker.
        """
        started = self._membership is not None
        timeout = ARBITER_TIMEOUT_SECONDS if started else None
        try:
            membership = self._inbox.await_round(self._tried, timeout=timeout)
        except TimeoutError as error:
            for holding in self.keeper.held[:1]:
                self._saver.save_now(holding)
            raise TrainingFailed(str(error)) from error
        if membership is None:
            self._end(Ending.LEFT)
        return membership

    def _switch(self, membership: Membership) -> None:
        phases = Phases(self._reached)
        before = self._membership.world_size if self._membership else 0
        self._retire_world()
        self._tried = self.keeper.number = membership.round
        self._watch.entering(membership.round, membership.workers())
        try:
            entered = enter(
                membership,
                me=self._context.name,
                keeper=self.keeper,
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
            self._end(Ending.LEFT)
            return
        self._watch.training(membership.round, membership.workers())
        self._begin_world(entered, phases, world_size_before=before)

    def _begin_world(self, entered: Entered, phases: Phases, *, world_size_before: int) -> None:
        live = self.keeper.live
        assert live is not None
        self._saver.enter(entered.membership, rank=live.groups.rank)
        if entered.source is None:
            self._renumber_requests(entered.membership.request_sequence)
        self._world = World(
            live=live,
            buffers=BufferMean(buffer_names(live.model)),
            control=Control(live.groups.control),
            loader=self._loader,
            device=self._context.device,
        )
        self._aim_on()
        phases.mark("begin")
        if self._pause_from is not None:
            pause = time.perf_counter() - self._pause_from
        else:
            # A joiner has no step to count from: what it saw is all but the first wait.
            pause = sum(phases.seconds.values()) - phases.seconds["greet"]
        if entered.source is not None:
            world_size_before = entered.source.world_size
        self._reporter.entered(
            entered,
            self.keeper,
            phases=phases,
            pause_seconds=pause,
            world_size_before=world_size_before,
        )
        if live.groups.rank == 0:
            geometry = self._pacing.geometry(self.progress)
            m, count = geometry.micro_batch_size, geometry.num_micro_batches
            log.info("round %d: %s", live.round, identity(m, count, live.groups.world_size))

    def _renumber_requests(self, accepted: int) -> None:
        """Number requests after those of the history that was rolled back."""
        state = renumbered(self.progress.controller, accepted=accepted)
        self.keeper.progress = replace(self.progress, controller=state)

    def _retire_world(self) -> None:
        """Turn what is live into held rows; the groups are closed by the transaction."""
        self._world = None
        self.keeper.suspend()

    def _leave(self, membership: Membership) -> None:
        """A round without members: save what there is, then go."""
        self._tried = membership.round
        # After an abandoned step, or a round that broke whole, the state is held, not live.
        held = [self.keeper.hold()] if self.keeper.live is not None else self.keeper.held
        for holding in held[:1]:
            self._saver.save_now(holding)
        log.info("round %d has no members (%s)", membership.round, membership.intent.value)
        self._end(Ending.FINISHED if membership.intent is Intent.STOP else Ending.LEFT)

    def _broke(self, error: BaseException, *, changed: bool) -> None:
        """A collective failed: hold the state and wait for a newer round."""
        log.warning("round %d broke: %s", self._tried, error)
        self._watch.idle()
        self._transport.break_off()
        if changed:
            self._world = None
            self.keeper.forget()
        else:
            self._retire_world()
        self._transport.close()
        self._reporter.tell(phase=PodPhase.WAITING)

    def _end(self, ending: Ending) -> None:
        self.ending = ending
        phase = PodPhase.FINISHED if ending is Ending.FINISHED else PodPhase.LEFT
        finished = self._pacing.is_finished(self.progress)
        self._reporter.ended(phase, finished=finished)

    # Steps

    def _next_step(self) -> Step:
        assert self._world is not None
        progress = self.progress
        return Step(
            self._world,
            self._pacing.geometry(progress),
            training=self._spec.training,
            learning_rate=self._pacing.learning_rate(progress),
            next_batch=progress.controller.batch,
            beat_every=beat_every(progress.micro_batch_seconds),
            flags=self._flags,
        )

    def _flags(self, slots_left: int) -> Flags:
        """What this worker knows as a beat begins."""
        newest = self._inbox.newest()
        if newest is not None and newest.round > self._tried:
            if newest != self._seen:
                self._seen = newest
                self._announce(newest)
            number = newest.round
        else:
            number = self._tried
        return Flags(
            round=number,
            stop=self._stop,
            checkpoint=self._saver.is_due(),
            abandon=self._cannot_finish(slots_left),
        )

    def _announce(self, newest: Membership) -> None:
        """Tell joiners where training will go on, so that they load data ahead."""
        if self._world is not None and self._world.live.groups.rank == 0 and newest.members:
            after = self.progress.samples + self._pacing.batch(self.progress)
            self._reporter.announce(newest, samples=after, batch=self.progress.global_batch_size)

    def _cannot_finish(self, slots_left: int) -> bool:
        """Whether the pod must end before this step is likely to."""
        grace_left = self._inbox.grace_left()
        if grace_left is None:
            return False
        return slots_left * self.progress.micro_batch_seconds > grace_left / 2

    def _after(self, step: Step) -> None:
        if step.broken is not None:
            self._broke(step.broken, changed=step.changing)
        elif step.abandoned:
            self._reporter.abandoned(step.slots_done)
            self._pause_from = time.perf_counter()
            self._retire_world()
            self._transport.close()
        else:
            step.finish()
            assert step.result is not None
            self._finish_step(step, step.result)

    def _finish_step(self, step: Step, result: StepResult) -> None:
        assert self._world is not None
        before, geometry = self.progress, step.geometry
        samples = before.samples + geometry.global_batch_size
        statistics = StepStatistics(
            weighted_squares=result.weighted_squares,
            square_norm=result.square_norm,
            num_micro_batches=result.num_micro_batches,
            samples=geometry.global_batch_size,
            weight=result.weight,
        )
        observation = self._controller.observe(
            before.controller, statistics if result.finite else None, samples=samples
        )
        self.keeper.progress = before.after_step(
            geometry.global_batch_size,
            finite=result.finite,
            next_batch=result.batch,
            controller=observation.state,
            micro_batch_seconds=result.micro_batch_seconds,
            stop=result.agreement.stop,
        )
        if result.finite and not self._checked:
            self.keeper.hold()  # refuses state that could not move, before anything is lost
            self._checked = True
        self._aim_on()
        waited, self._waited = self._loader.wait_seconds - self._waited, self._loader.wait_seconds
        facts = StepFacts(
            geometry=geometry,
            learning_rate=step.learning_rate,
            seconds=step.seconds,
            data_seconds=waited,
        )
        self._stop |= self._reporter.stepped(self.keeper, result, observation, facts)
        in_a_row, limit = self.progress.skipped_in_a_row, self._spec.training.max_skipped_steps
        if in_a_row > limit:
            raise TrainingFailed(
                f"loss or gradient was not finite in {in_a_row} steps in a row (limit {limit}),"
                f" last at step {self.progress.step}"
            )
        if result.agreement.checkpoint:
            self._saver.save(self.keeper.hold())
        self._pause_from = time.perf_counter()

    def _aim_on(self) -> None:
        assert self._world is not None
        groups = self._world.live.groups
        progress = self.progress
        self._aim(progress.samples, progress.global_batch_size, groups.rank, groups.world_size)

    def _aim(self, samples: int, batch: int, rank: int, world_size: int) -> None:
        """Load ahead for this and the next step."""
        self._loader.aim(self._pacing.first_samples(samples, batch, rank, world_size))

    def _evaluate(self) -> None:
        assert self._world is not None
        live = self._world.live
        # A round that all see is entered by _settle, before the next piece.
        self._world.control.beat(self._flags(0))
        self.keeper.progress = self._evaluation.advance(live.model, live.groups, self.progress)
        self._stop |= self._reporter.evaluated(self.keeper)
        self._pause_from = time.perf_counter()
