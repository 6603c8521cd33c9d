"""What a worker tells its agent, for the report. Called by the worker."""

from typing import TYPE_CHECKING, Any

from concertina_api.v1alpha1 import (
    BatchSizeRequest,
    Membership,
    PodPhase,
    Progress,
    Resize,
)
from concertina_trainer.schedule.controller import request_again
from tests.simulation.history import State
from tests.simulation.keeper import Keeper, Live

if TYPE_CHECKING:
    from tests.simulation.worker import Worker


class Reporter:
    """What the worker tells its agent (loop/reporting.py)."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker

    def tell(self, **changes: Any) -> None:
        """A change of the status."""
        self._worker.tell(**changes)

    def announce(self, membership: Membership, *, samples: int, batch: int) -> None:
        """Joiners load data ahead; nothing depends on it."""

    def abandoned(self, micro_batches: int) -> None:
        """A step was dropped."""

    def entered(self, entered: Any, keeper: Keeper, **_: Any) -> None:
        """A round is committed and ready to train."""
        live, worker = keeper.live, self._worker
        leads, source = live.groups.rank == 0, entered.source
        state = keeper.progress.controller
        resize = Resize(
            round=live.round,
            world_size_before=entered.losses.world_size,
            world_size=live.groups.world_size,
            step=live.state.step,
            pause_seconds=0.0,
            source="checkpoint" if source is None else "memory",
        )
        worker.tell(
            request=request_again(state) if leads and state.sequence else None,
            phase=PodPhase.TRAINING,
            round=live.round,
            rank=live.groups.rank,
            suspects=(),
            acknowledged=resize if leads else None,
            progress=self._progress(live),
        )

    def stepped(self, state: State) -> None:
        """A step is done; the leader asks for what the controller has decided."""
        worker, live = self._worker, self._worker.keeper.live
        worker.mention(progress=self._progress(live))
        if live.groups.rank == 0 and state.batch.sequence > state.parent.batch.sequence:
            request = BatchSizeRequest(
                sequence=state.batch.sequence,
                requested=state.batch.batch,
                effective=state.batch.batch,
                reason="the rule says so",
            )
            worker.tell(request=request)

    def ended(self, phase: PodPhase, *, finished: bool) -> None:
        """This worker's part is over."""
        self._worker.tell(phase=phase, finished=finished)

    def _progress(self, live: Live) -> Progress:
        return Progress(
            step=live.state.step,
            samples=live.state.samples,
            round=live.round,
            world_size=live.groups.world_size,
            global_batch_size=live.state.batch.batch,
            trained=self._worker.world.pacing.is_finished(self._worker.keeper.progress),
        )
