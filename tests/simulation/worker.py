"""One training process: the real rounds and transaction, around a model of the step.

The step is what loop/step.py does with the groups, in order: beats on the control plane, the
reduction, the collection of the beat, the change of the state; then checkpoint and snapshot as
agreed. What is real: loop/rounds.py, rounds/transaction.py, rounds/desk.py, rounds/agreement.py,
rounds/watch.is_hopeless, loop/pacing.py and the renumbering of requests.
"""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from concertina_api.errors import ConcertinaError
from concertina_api.v1alpha1 import (
    Failure,
    FailureCause,
    Membership,
    PodPhase,
)
from concertina_trainer.agent.mailbox import WorkerStatus
from concertina_trainer.causes import account_of
from concertina_trainer.loop.ending import Ending
from concertina_trainer.loop.rounds import Rounds
from concertina_trainer.rounds.transport import is_broken
from tests.simulation.keeper import Keeper, Live
from tests.simulation.kernel import Process
from tests.simulation.network import Transport
from tests.simulation.reporter import Reporter
from tests.simulation.saver import Saver
from tests.simulation.snapshots import Transfer
from tests.simulation.step import Step, UserError
from tests.simulation.watch import WATCH_SECONDS, Inbox, SimWatch

if TYPE_CHECKING:
    from tests.simulation.agent import Agent

EXIT_CODES = {Ending.EXCLUDED: 3}


class Worker:
    """A worker and its equipment."""

    def __init__(self, agent: "Agent", local_rank: int) -> None:
        self.agent, self.local_rank = agent, local_rank
        self.world, self.kernel, self.place = agent.world, agent.kernel, agent.pod.place
        self.incarnation = agent.incarnation
        self.key = f"{agent.pod.uid}.{agent.incarnation}/{local_rank}"
        self.name = f"worker {agent.pod.name} {self.key}"
        self.status = WorkerStatus(incarnation=self.incarnation, local_rank=local_rank, pid=1)
        self.transfer: Transfer | None = None
        """The newest snapshot that it has begun to send."""
        self.frozen_since: float | None = None
        self.poison = False
        """The user's code will raise in the next step."""
        self.transport = Transport(self.kernel, self.world.network, self, self.world.groups)
        self.keeper = Keeper(self)
        self.saver = Saver(self)
        self.reporter = Reporter(self)
        self.inbox = Inbox(self)
        self._membership: Membership | None = None
        self._watched: SimWatch | None = None
        self._flag_step = -1
        self.process = Process(self.kernel, self.name, self._main, owner=self)
        self.world.workers[self.key] = self

    # What happens to it.

    def kill(self, code: int = -9) -> None:
        """SIGKILL."""
        if not self.process.dead:
            self.process.kill()
            self.agent.ended_worker(self, code)
            self.kernel.poke()

    def freeze(self) -> None:
        """SIGSTOP for this process alone."""
        self.frozen_since = self.kernel.now
        self.process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        if not self.agent.process.frozen:
            self.frozen_since = None
            self.process.thaw()

    def read_mail(self) -> None:
        """The agent has put a newer membership into the mailbox."""
        self.process.wake(self.kernel.some(0.001, 0.01))
        if self._watched is not None:
            self.kernel.after(WATCH_SECONDS, self._watched.look)

    def watched_by(self, watcher: SimWatch) -> None:
        """The thread that reads the mailbox beside the loop."""
        self._watched = watcher

    # What it does.

    def _main(self) -> None:
        code = 1
        try:
            code = self._train()
        except ConcertinaError as error:
            self.kernel.say(f"{self.name}: fails: {error}")
            self.world.judge.check("must be equal" not in str(error), f"{self.name}: {error}")
            self._fail(str(error), account_of(error).cause)
        except UserError:
            self._fail("the user's code is wrong", FailureCause.EXCEPTION)
        if not self.process.dead:
            self.process.dead = True
            self.kernel.say(f"{self.name}: ends with code {code}")
            self.kernel.after(0.0, self.agent.ended_worker, self, code)
            self.kernel.after(0.0, self.kernel.poke)

    def _fail(self, message: str, cause: FailureCause) -> None:
        status = self.status
        failure = Failure(
            round=status.round,
            incarnation=self.incarnation,
            rank=status.rank,
            cause=cause,
            message=message[:200],
        )
        self.tell(phase=PodPhase.FAILED, failure=failure)

    def _train(self) -> int:
        self.process.sleep(self.kernel.some(0.5, 5.0))
        world = self.world
        equipment = SimpleNamespace(
            spec=world.job.spec,
            context=SimpleNamespace(
                name=self.key, mailbox=self, device=self, local_rank=self.local_rank
            ),
            pacing=world.pacing,
            loader=SimpleNamespace(cancel=lambda: None),
            inbox=self.inbox,
            controller=None,
            saver=self.saver,
            reporter=self.reporter,
            keeper=self.keeper,
            aim=lambda *_: None,
        )
        self.rounds = rounds = Rounds(equipment, reached=self.reached)
        self.tell(phase=PodPhase.WARM)
        while rounds.ending is None:
            try:
                self._step_or_duty(rounds)
            except RuntimeError as error:
                if not is_broken(error):
                    raise
                rounds.broke(error, changed=False)
        return EXIT_CODES.get(rounds.ending, 0)

    def _step_or_duty(self, rounds: Rounds) -> None:
        if not rounds.settle():
            return
        if self.world.pacing.is_finished(self.keeper.progress):
            rounds.finish()
            return
        step = Step(self, rounds)
        try:
            step.run()
        except RuntimeError as error:
            if not is_broken(error):
                raise
            rounds.broke(error, changed=step.changing)

    def reached(self, point: str) -> None:
        """A point of the protocol: the place for a fault to happen."""
        self.world.faults.reached(point, self)
        if self.process.dead:
            self.process.pause(None)
        elif self.process.frozen:
            self.process.pause(0.0)

    def committed(self, live: Live) -> None:
        """The store says so: from now on the prepared state is the state."""
        self.world.commits(live, self)

    def tell(self, **changes: Any) -> None:
        """The status, at once."""
        self.mention(**changes)
        self.agent.look()

    def mention(self, **changes: Any) -> None:
        """The status, with the next turn of the agent."""
        self.status = self.status.model_copy(update=changes)
