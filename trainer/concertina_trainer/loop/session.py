"""The training loop: steps, and between them whatever the membership asks for.

    with session("job.yaml", task) as training:
        for step in training:                       # a resize may happen between two turns
            with step:                              # leaving it finishes the step
                for batch in step.micro_batches():
                    step.backward(task.loss(step.model, batch))

`concertina_trainer.worker` drives it for a job whose spec names a task; a script may do so
itself. A resize builds new module, parameter and optimizer objects: keep no reference to them
across turns. The rounds between the steps are in loop/rounds.py.
"""

import gc
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from concertina_api.v1alpha1 import JobSpec, PodPhase
from concertina_trainer.data.loader import Loader
from concertina_trainer.loop.beats import Beats, beat_every
from concertina_trainer.loop.context import WorkerContext
from concertina_trainer.loop.ending import Ending
from concertina_trainer.loop.equipment import equip
from concertina_trainer.loop.evaluation import Evaluation
from concertina_trainer.loop.progress import Progress
from concertina_trainer.loop.reduction import StepResult
from concertina_trainer.loop.rounds import Rounds
from concertina_trainer.loop.rows import StepFacts
from concertina_trainer.loop.skipping import check_skipped, is_roll_back_due
from concertina_trainer.loop.status import StatusBoard
from concertina_trainer.loop.step import Step
from concertina_trainer.rounds.phases import ignore
from concertina_trainer.rounds.transport import is_broken
from concertina_trainer.schedule.controller import Observation
from concertina_trainer.schedule.estimator import StepStatistics
from concertina_trainer.task import Task


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
        self._loader = loader
        equipment = equip(
            spec,
            task,
            context,
            job=job,
            total_samples=total_samples,
            loader=loader,
            board=board,
        )
        self._pacing = equipment.pacing
        self._controller = equipment.controller
        self._saver = equipment.saver
        self._reporter = equipment.reporter
        self.keeper = equipment.keeper
        self._snapshots = equipment.keeper.snapshots
        self._rounds = Rounds(equipment, reached=reached)
        self._beats = Beats(equipment, self._rounds)
        self._evaluation = Evaluation(
            task,
            micro_batch_size=spec.batch.micro_batch_size,
            every_samples=spec.training.evaluate_every_samples,
            device=context.device,
        )
        self._waited = 0.0
        self._tail_seconds = 0.0
        self._checked = False

    @property
    def round(self) -> int:
        """Number of the newest round that this worker has entered or tried to."""
        return self._rounds.tried

    @property
    def ending(self) -> Ending | None:
        """Why the loop ended; None while it goes on."""
        return self._rounds.ending

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
        self._rounds.stop()
        self._saver.close()
        self._loader.close()
        if error is None:
            self._rounds.close()

    def __iter__(self) -> Iterator[Step]:
        while self.ending is None:
            try:
                step = self._step_or_duty()
            except Exception as error:
                if not is_broken(error):
                    raise
                self._rounds.broke(error)
                continue
            if step is not None:
                yield step
                self._after(step)
                step.release()
                step = None

    def _step_or_duty(self) -> Step | None:
        """The next step; or None, when something else was due before it and is done now."""
        if not self._rounds.settle():
            return None
        finished = self._pacing.is_finished(self.progress)
        if self._evaluation.is_due(self.progress, finished=finished):
            self._evaluate()
            return None
        if finished:
            self._rounds.finish()
            return None
        return self._next_step()

    def _next_step(self) -> Step:
        assert self._rounds.world is not None
        progress = self.progress
        return Step(
            self._rounds.world,
            self._pacing.geometry(progress),
            training=self._spec.training,
            losses=progress.losses,
            learning_rate=self._pacing.learning_rate(progress),
            next_batch=progress.controller.batch,
            beat_every=beat_every(progress.micro_batch_seconds),
            flags=self._beats.flags,
            tail_seconds=self._tail_seconds,
        )

    def _after(self, step: Step) -> None:
        if step.broken is not None:
            self._rounds.broke(step.broken, changed=step.changing, last_sign=step.last_sign)
        elif step.abandoned:
            self._rounds.abandoned(step.slots_done)
        else:
            step.finish()
            assert step.result is not None
            try:
                self._finish_step(step, step.result)
            except Exception as error:
                if not is_broken(error):
                    raise
                self._rounds.broke(error)  # between two updates: the state is whole

    def _finish_step(self, step: Step, result: StepResult) -> None:
        observation = self._advance(step, result)
        self._tail_seconds = step.tail_seconds
        if result.skipped is None and not self._checked:
            self.keeper.hold()  # refuses state that could not move, before anything is lost
            self._checked = True
        self._rounds.aim_on()
        self._tell(step, result, observation)
        check_skipped(self.progress, result.skipped, training=self._spec.training)
        self._snapshots.after_step(
            result.agreement.held,
            seconds=step.seconds,
            slots=step.slots,
            loss_seconds=self._saver.loss_seconds,
        )
        if is_roll_back_due(self.progress, result.skipped, training=self._spec.training):
            self._rounds.roll_back()
        if result.agreement.snapshot and result.skipped is None:
            self._snapshots.take(self.keeper.hold())
        self._saver.stepped(step.seconds, slots=step.slots)
        # The last state is saved apart, for all wait until that is durable.
        if result.agreement.checkpoint and not self._pacing.is_finished(self.progress):
            self._saver.save(self.keeper.hold())
        self._rounds.paused()

    def _advance(self, step: Step, result: StepResult) -> Observation:
        """Take the step into the progress, and what the batch rule makes of it."""
        before, geometry = self.progress, step.geometry
        statistics = StepStatistics(
            weighted_squares=result.weighted_squares,
            square_norm=result.square_norm,
            num_micro_batches=result.num_micro_batches,
            samples=geometry.global_batch_size,
            weight=result.weight,
        )
        observation = self._controller.observe(
            before.controller,
            statistics if result.skipped is None else None,
            samples=before.samples + geometry.global_batch_size,
        )
        self.keeper.progress = before.after_step(
            geometry.global_batch_size,
            loss=result.loss,
            skipped=result.skipped,
            next_batch=result.batch,
            controller=observation.state,
            micro_batch_seconds=result.micro_batch_seconds,
            worker_seconds=result.worker_seconds,
            stop=result.agreement.stop,
        )
        return observation

    def _tell(self, step: Step, result: StepResult, observation: Observation) -> None:
        waited, self._waited = self._loader.wait_seconds - self._waited, self._loader.wait_seconds
        facts = StepFacts(
            geometry=step.geometry,
            learning_rate=step.learning_rate,
            seconds=step.seconds,
            data_seconds=waited,
        )
        self._beats.stop |= self._reporter.stepped(self.keeper, result, observation, facts)

    def _evaluate(self) -> None:
        world = self._rounds.world
        assert world is not None
        # A round that all see is entered before the next piece.
        world.control.beat(self._beats.flags(0))
        self.keeper.progress = self._evaluation.advance(
            world.live.model, world.live.groups, self.progress
        )
        self._beats.stop |= self._reporter.evaluated(self.keeper)
        self._rounds.paused()
