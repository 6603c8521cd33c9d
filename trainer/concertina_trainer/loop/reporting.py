"""Tells what happened: status for the agent, rows for the record, lines for the log.

The session calls it at each event; nothing here influences training, except that a task's
`on_step` may ask to stop.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

from concertina_api.errors import RoundFailed
from concertina_api.v1alpha1 import JobSpec, Membership, PodPhase, Progress, Resize
from concertina_trainer.loop.context import WorkerContext
from concertina_trainer.loop.devices import device_uuid, memory
from concertina_trainer.loop.keeper import StateKeeper
from concertina_trainer.loop.measuring import Measuring, tokens_per_sample
from concertina_trainer.loop.progress import Progress as TrainingProgress
from concertina_trainer.loop.record import Record
from concertina_trainer.loop.reduction import StepResult
from concertina_trainer.loop.resize import log_resize, resize_of
from concertina_trainer.loop.rows import Rows, StepFacts
from concertina_trainer.loop.saving import Saver
from concertina_trainer.loop.slow import Waiting
from concertina_trainer.loop.status import StatusBoard
from concertina_trainer.rounds.phases import Phases
from concertina_trainer.rounds.transaction import Entered, announce
from concertina_trainer.schedule.controller import (
    BatchController,
    Observation,
    request,
    request_again,
)
from concertina_trainer.sharding.state import Holding
from concertina_trainer.task import Task

log = logging.getLogger(__name__)


class Reporter:
    """The voice of one worker; the leader's says the most."""

    def __init__(
        self,
        spec: JobSpec,
        task: Task,
        context: WorkerContext,
        *,
        controller: BatchController,
        saver: Saver,
        board: StatusBoard,
        is_trained: Callable[[TrainingProgress], bool],
    ) -> None:
        """`is_trained`: whether no step follows.

        Raises InvalidJob when the task tells nonsense about itself.
        """
        self._spec = spec
        self._board = board
        self._rows = Rows(Record(context.run_dir / "steps.jsonl"), task)
        self._saver = saver
        self._is_trained = is_trained
        self._pause_seconds = 0.0
        self._membership, self._waiting = Membership(round=0), Waiting()
        self._device = context.device
        self._measuring = Measuring(controller)
        board.tell(tokens_per_sample=tokens_per_sample(task), device=device_uuid(context.device))

    def tell(self, **changes: Any) -> None:
        """Change the status at once."""
        self._board.tell(**changes)

    def announce(self, membership: Membership, *, samples: int, batch: int) -> None:
        """Tell the joiners of a round where training will go on; not being heard does no harm."""
        try:
            announce(membership, samples=samples, batch=batch)
        except RoundFailed as error:
            log.debug("could not announce round %d: %s", membership.round, error)

    def entered(
        self,
        entered: Entered,
        keeper: StateKeeper,
        *,
        phases: Phases,
        pause_seconds: float,
        detection_seconds: float | None,
    ) -> None:
        """A round is committed and ready to train."""
        live, step = keeper.live, keeper.progress.step
        assert live is not None
        leads = live.groups.rank == 0
        if leads and entered.is_earlier(step):
            self._roll_back(keeper)
        resize = resize_of(
            entered,
            live,
            step=step,
            phases=phases,
            pause_seconds=pause_seconds,
            detection_seconds=detection_seconds,
        )
        self._pause_seconds = pause_seconds
        self._membership, self._waiting = entered.membership, Waiting()
        self._measuring.entered(keeper.progress)
        holding = keeper.hold()
        self._saver.reserve(holding)
        state = keeper.progress.controller
        self.tell(
            # A leader that is new, or that starts from a checkpoint, repeats the newest request.
            request=request_again(state) if leads and state.sequence else None,
            phase=PodPhase.TRAINING,
            round=live.round,
            rank=live.groups.rank,
            suspects=(),
            acknowledged=resize if leads else None,
            progress=self._progress(keeper, loss=None),
            state_bytes=sum(t.numel() * t.element_size() for t in holding.tensors.values()),
            **(self._checkpoint() | self._snapshot(keeper) if leads else {}),
            **(self._recovery(resize) if leads and resize.lost else {}),
            **self._memory(),
        )
        if leads:
            log_resize(resize)

    def stepped(
        self,
        keeper: StateKeeper,
        result: StepResult,
        observation: Observation,
        facts: StepFacts,
    ) -> bool:
        """A step is done; True when the task asks to stop. Counts on the leader only."""
        live, progress = keeper.live, keeper.progress
        assert live is not None
        pause, self._pause_seconds = self._pause_seconds, 0.0
        self._measuring.stepped(observation)
        if live.groups.rank != 0:
            self._board.mention(progress=self._progress(keeper, loss=result.loss), **self._memory())
            return False
        self._waiting = self._waiting.after_step(result.waits, step_seconds=facts.seconds)
        stop = self._rows.stepped(live, progress, result, facts, pause_seconds=pause)
        stop |= self._rows.decided(progress, observation)
        status = self._board.status
        measured = self._measuring.measured(
            result,
            progress,
            learning_rate=facts.learning_rate,
            num_micro_batches=facts.geometry.num_micro_batches,
            world_size=live.groups.world_size,
        )
        self._board.mention(
            progress=self._progress(keeper, loss=result.loss, result=facts),
            measured=measured,
            step_seconds=facts.seconds,
            slow=self._waiting.slow_pods(self._membership),
            samples_trained=status.samples_trained + facts.geometry.global_batch_size,
            **self._checkpoint(),
            **self._snapshot(keeper),
            **self._memory(),
        )
        decision = observation.decision
        if decision is not None and decision.grow:
            self.tell(request=request(observation.state, decision))
        return stop

    def evaluated(self, keeper: StateKeeper) -> bool:
        """A piece of an evaluation is done; a row when it was the last. True: stop training."""
        live, progress = keeper.live, keeper.progress
        if live is None or live.groups.rank != 0 or progress.evaluation is not None:
            return False
        return self._rows.evaluated(progress)

    def abandoned(self, micro_batches: int) -> None:
        """A step was dropped to be run again."""
        log.info("step abandoned after %d micro-batches: a pod must end", micro_batches)
        seen = self._board.status.recomputed_micro_batches
        self.tell(recomputed_micro_batches=seen + micro_batches)

    def ended(self, phase: PodPhase, *, finished: bool) -> None:
        """This worker's part is over; `finished` when the run is."""
        self.tell(phase=phase, finished=finished, **self._checkpoint())

    def rolled_back(self, keeper: StateKeeper, snapshot: Holding) -> None:
        """A snapshot was taken up within the round: the samples since then are left out."""
        live, progress = keeper.live, keeper.progress
        assert live is not None
        self._measuring.entered(progress)
        if live.groups.rank != 0:
            return
        marked = self._rows.roll_back(step=snapshot.step, samples=snapshot.extra["samples"])
        log.warning(
            "the state of step %d is taken up at step %d: the samples of %d rows are left out",
            snapshot.step,
            progress.step,
            marked,
        )
        self.tell(progress=self._progress(keeper, loss=None))

    def _roll_back(self, keeper: StateKeeper) -> None:
        progress = keeper.progress
        marked = self._rows.roll_back(step=progress.step, samples=progress.samples)
        if marked:
            log.warning(
                "back at step %d: %d rows of the record are discarded", progress.step, marked
            )

    def _progress(
        self, keeper: StateKeeper, *, loss: float | None, result: StepFacts | None = None
    ) -> Progress:
        progress, live = keeper.progress, keeper.live
        assert live is not None
        rate = result.geometry.global_batch_size / result.seconds if result else None
        return Progress(
            step=progress.step,
            samples=progress.samples,
            loss=loss if loss is not None and math.isfinite(loss) else None,
            global_batch_size=progress.global_batch_size,
            world_size=live.groups.world_size,
            round=live.round,
            noise_scale=self._measuring.standing(progress).noise_scale,
            samples_per_second=rate,
            skipped_steps=progress.skipped_steps,
            rollbacks=progress.rollbacks,
            useful_seconds=progress.useful_seconds,
            trained=self._is_trained(progress),
        )

    def _checkpoint(self) -> dict[str, Any]:
        return {
            "checkpoint": self._saver.last,
            "checkpoint_blocking_seconds": self._saver.blocking_seconds,
            "checkpoint_seconds": self._saver.seconds,
            "checkpoint_interval_seconds": self._saver.interval_seconds,
            "checkpoint_failures": self._saver.failures,
            "safe_at": self._saver.safe_at,
        }

    def _snapshot(self, keeper: StateKeeper) -> dict[str, Any]:
        snapshots = keeper.snapshots
        return {
            "snapshot": snapshots.facts,
            "snapshot_at": snapshots.newest_at,
            "snapshots_taken": snapshots.taken,
            "snapshot_failures": snapshots.failures,
        }

    def _recovery(self, resize: Resize) -> dict[str, Any]:
        status = self._board.status
        count = status.recoveries.get(resize.source, 0) + 1
        return {
            "recoveries": {**status.recoveries, resize.source: count},
            "steps_lost": status.steps_lost + resize.steps_lost,
        }

    def _memory(self) -> dict[str, int | None]:
        now = memory(self._device)
        return {"peak_bytes": now.peak_bytes, "device_bytes": now.device_bytes}
