"""What one worker trains with, put together once from the manifest and the task.

The session makes it and shares it with the rounds (loop/rounds.py).
"""

from dataclasses import dataclass

from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.data.loader import Loader
from concertina_trainer.loop.context import WorkerContext
from concertina_trainer.loop.inbox import Inbox
from concertina_trainer.loop.keeper import StateKeeper
from concertina_trainer.loop.origin import Origin
from concertina_trainer.loop.pacing import Pacing
from concertina_trainer.loop.progress import Progress
from concertina_trainer.loop.reporting import Reporter
from concertina_trainer.loop.saving import Saver
from concertina_trainer.loop.status import StatusBoard
from concertina_trainer.schedule.controller import BatchController
from concertina_trainer.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """The parts of one worker that live as long as it does."""

    spec: JobSpec
    context: WorkerContext
    pacing: Pacing
    loader: Loader
    inbox: Inbox
    controller: BatchController
    saver: Saver
    reporter: Reporter
    keeper: StateKeeper

    def aim(self, samples: int, batch: int, rank: int, world_size: int) -> None:
        """Load ahead for the step at `samples` and the one after it."""
        self.loader.aim(self.pacing.first_samples(samples, batch, rank, world_size))


def equip(
    spec: JobSpec,
    task: Task,
    context: WorkerContext,
    *,
    job: str,
    total_samples: int,
    loader: Loader,
    board: StatusBoard,
) -> Equipment:
    """The equipment of a worker. Raises InvalidJob for what the user must change."""
    pacing = Pacing(spec, task, total_samples=total_samples)
    inbox = Inbox(context)
    controller = BatchController.of(
        spec.batch,
        total_samples=total_samples,
        warmup_samples=spec.learning_rate.warmup_samples,
    )
    saver = Saver(
        spec,
        job=job,
        run_dir=context.run_dir,
        may_publish=inbox.names_me,
        shares_storage=context.shares_storage,
        grace_left=inbox.grace_left,
    )
    reporter = Reporter(
        spec,
        task,
        context,
        controller=controller,
        saver=saver,
        board=board,
        is_trained=pacing.is_finished,
    )
    initial = Progress(
        global_batch_size=spec.batch.initial,
        controller=controller.start(),
        evaluation_losses={},
    )

    def expect(samples: int, batch: int, rank: int, world_size: int) -> None:
        equipment.aim(samples, batch, rank, world_size)

    origin = Origin(
        spec,
        task,
        job=job,
        storage=saver.storage,
        device=context.device,
        written_step=lambda: saver.written_step,
    )
    keeper = StateKeeper(
        spec,
        task,
        device=context.device,
        controller=controller,
        initial=initial,
        origin=origin,
        expect=expect,
    )
    equipment = Equipment(
        spec=spec,
        context=context,
        pacing=pacing,
        loader=loader,
        inbox=inbox,
        controller=controller,
        saver=saver,
        reporter=reporter,
        keeper=keeper,
    )
    return equipment
