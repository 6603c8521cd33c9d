"""A step of the model: beats, the reduction, the change of the state, and what was agreed.

The order is that of loop/step.py. Called by the worker.
"""

from typing import TYPE_CHECKING

from concertina_trainer.loop.rounds import Rounds
from concertina_trainer.rounds.control import NONE, Agreement, Flags
from tests.simulation.history import Judge
from tests.simulation.network import Group

if TYPE_CHECKING:
    from tests.simulation.worker import Worker


class UserError(Exception):
    """What the user's code raises."""


class Control:
    """Beats (rounds/control.py), with what snapshots add."""

    def __init__(self, group: Group, worker: "Worker") -> None:
        self._group, self._worker = group, worker
        self._number = 0
        self._pending: str | None = None
        self._latest = Agreement(
            round=None, stop=False, checkpoint=False, abandon=False, snapshot=False, held=NONE
        )

    def beat(self, flags: Flags) -> Agreement:
        """Collect the beat under way and start the next."""
        latest = self.collect()
        self._number += 1
        self._pending = f"beat {self._number}"
        transport = self._worker.transport
        transport.tell(self._group, transport.rank, self._pending, flags)
        return latest

    def collect(self) -> Agreement:
        """Wait for the beat under way, if any."""
        if self._pending is not None:
            transport = self._worker.transport
            told = list(transport.hear(self._group, transport.rank, self._pending).values())
            self._pending = None
            rounds = {flags.round for flags in told}
            self._latest = Agreement(
                round=rounds.pop() if len(rounds) == 1 else None,
                stop=False,
                checkpoint=any(flags.checkpoint for flags in told),
                abandon=any(flags.abandon for flags in told),
                snapshot=any(flags.snapshot for flags in told),
                held=min(flags.held for flags in told),
            )
        return self._latest

    def drop(self) -> None:
        """Forget the beat under way: its connections are gone."""
        self._pending = None


class Step:
    """One optimizer step of one worker."""

    def __init__(self, worker: "Worker", rounds: Rounds) -> None:
        self._worker, self._rounds = worker, rounds
        self._world, self._keeper = worker.world, worker.keeper
        self._judge = worker.world.judge
        self.changing = False

    def run(self) -> None:
        """Raises RuntimeError when the round breaks."""
        worker, world, kernel = self._worker, self._world, self._worker.kernel
        control, process = self._rounds.world.control, worker.process
        seconds = world.step_seconds * kernel.some(0.95, 1.05)
        for number in range(world.beats):
            agreed = control.beat(self._flags(world.beats - number))
            if agreed.abandon and number:
                control.collect()
                self._rounds.abandoned(0)
                return
            worker.reached("beat")
            process.sleep(seconds / world.beats)
        if worker.poison:
            raise UserError
        live = self._keeper.live
        name = f"step {live.state.step + 1}"
        transport, group = worker.transport, live.groups.control
        transport.tell(group, transport.rank, name, live.state)
        told = transport.hear(group, transport.rank, name)
        Judge.check(
            all(state is live.state for state in told.values()),
            f"{name} of round {live.round} reduces over {list(told.values())}",
        )
        agreed = control.collect()
        self._rounds.world.before_update()
        self.changing = True
        self._judge.live[worker.key] = None
        worker.reached("optimizer")
        process.sleep(world.step_seconds * 0.02)
        state = world.next_state(live, self._keeper.progress.controller)
        self._keeper.advance(state)
        self._judge.live[worker.key] = state
        world.stepped(live, worker)
        self.changing = False
        self._rounds.paused()
        worker.reporter.stepped(state)
        self._act_on(agreed)

    def _flags(self, beats_left: int) -> Flags:
        worker, live, snapshots = self._worker, self._keeper.live, self._keeper.snapshots
        leads = live.groups.rank == 0
        left = worker.inbox.grace_left()
        needed = beats_left * self._world.step_seconds / self._world.beats
        return Flags(
            round=self._rounds.newest(),
            checkpoint=leads and worker.saver.is_due(),
            abandon=left is not None and needed > left / 2,
            snapshot=leads and snapshots.is_due(live.state.step),
            held=snapshots.held,
        )

    def _act_on(self, agreed: Agreement) -> None:
        worker, live, snapshots = self._worker, self._keeper.live, self._keeper.snapshots
        if agreed.held >= 0:
            self._world.snapshot_is_complete(live, agreed.held)
        snapshots.after_step(agreed.held, seconds=self._world.step_seconds, slots=1)
        if agreed.snapshot:
            snapshots.take(self._keeper.hold())
        if agreed.checkpoint and not self._world.pacing.is_finished(self._keeper.progress):
            worker.saver.save(self._keeper.hold())
