"""One training process: the real rounds and transaction, around a model of the step.

The step is what loop/step.py does with the groups, in order: beats on the control plane, the
reduction, the collection of the beat, the change of the state; then checkpoint and snapshot as
agreed. What is real: loop/rounds.py, rounds/transaction.py, rounds/desk.py, rounds/agreement.py,
rounds/watch.is_hopeless, loop/pacing.py and the renumbering of requests.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from concertina_api.errors import ConcertinaError, TrainingFailed
from concertina_api.v1alpha1 import (
    BatchSizeRequest,
    Failure,
    FailureCause,
    Membership,
    PodPhase,
    Progress,
    Resize,
)
from concertina_trainer.agent.mailbox import WorkerStatus
from concertina_trainer.loop.ending import Ending
from concertina_trainer.loop.rounds import Rounds
from concertina_trainer.rounds import watch
from concertina_trainer.rounds.control import NONE, Agreement, Flags
from concertina_trainer.rounds.transport import is_broken
from concertina_trainer.schedule.controller import request_again
from tests.simulation.history import Judge, State
from tests.simulation.keeper import Keeper, Live
from tests.simulation.kernel import Process
from tests.simulation.network import Group, Transport
from tests.simulation.snapshots import Transfer

if TYPE_CHECKING:
    from tests.simulation.pods import Agent

EXIT_CODES = {Ending.EXCLUDED: 3}
WATCH_SECONDS = 0.05


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

    def watched_by(self, watcher: "SimWatch") -> None:
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
            self._fail(str(error), FailureCause.INFRASTRUCTURE)
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
            self.saver.save_now(self.keeper.hold())
            rounds.end(Ending.FINISHED)
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


class UserError(Exception):
    """What the user's code raises."""


class Control:
    """Beats (rounds/control.py), with what snapshots add."""

    def __init__(self, group: Group, worker: Worker) -> None:
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


class Step:
    """One optimizer step of one worker."""

    def __init__(self, worker: Worker, rounds: Rounds) -> None:
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
        if agreed.checkpoint:
            worker.saver.save(self._keeper.hold())


class SimWatch:
    """The thread that breaks off what can never end: when to look is modelled (rounds/watch.py)."""

    def __init__(self, worker: Worker, break_off: Any, **_: Any) -> None:
        self._worker, self._break_off = worker, break_off
        self._round, self._needed, self._entering = 2**62, frozenset[str](), False
        self._overtaken_at: float | None = None
        worker.watched_by(self)

    def entering(self, number: int, members: tuple[str, ...]) -> None:
        """See rounds.watch.Watch."""
        self._set(number, members, entering=True)

    def training(self, number: int, members: tuple[str, ...]) -> None:
        """See rounds.watch.Watch."""
        self._set(number, members, entering=False)

    def idle(self) -> None:
        """See rounds.watch.Watch."""
        self._set(2**62, (), entering=False)

    def stop(self) -> None:
        """See rounds.watch.Watch."""

    def _set(self, number: int, needed: tuple[str, ...], *, entering: bool) -> None:
        self._round, self._needed, self._entering = number, frozenset(needed), entering
        self._overtaken_at = None
        self._worker.kernel.after(WATCH_SECONDS, self.look)

    def look(self) -> None:
        """A turn of the thread; one that would change nothing is left out."""
        process, newest = self._worker.process, self._worker.agent.mail
        if process.dead or newest is None or newest.round <= self._round:
            return
        if process.frozen:
            self._worker.kernel.after(1.0, self.look)
            return
        now, overtaken = self._worker.kernel.now, None
        if self._entering:
            if self._overtaken_at is None:
                self._overtaken_at = now
                self._worker.kernel.after(watch.GIVEN_UP_SECONDS + WATCH_SECONDS, self.look)
            overtaken = now - self._overtaken_at
        if watch.is_hopeless(newest, needed=self._needed, overtaken_seconds=overtaken):
            self._break_off()


class Inbox:
    """What the worker reads of its mailbox (loop/inbox.py)."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def newest(self) -> Membership | None:
        """The newest membership, whether it names this worker or not."""
        return self._worker.agent.mail

    def newest_round(self) -> int:
        """Its number."""
        newest = self.newest()
        return newest.round if newest is not None else 0

    def names_me(self) -> bool:
        """Whether the newest membership counts on this worker."""
        newest = self.newest()
        return newest is not None and self._worker.key in watch.present(newest)

    def grace_left(self) -> float | None:
        """Seconds until the pod must have ended."""
        deadline = self._worker.agent.deadline
        return None if deadline is None else deadline - self._worker.kernel.now

    def now(self) -> float:
        """In virtual seconds."""
        return self._worker.kernel.now

    def await_round(self, after: int, *, gives_up: Callable[[], bool] | None) -> Membership | None:
        """As the product's, over virtual time."""
        worker = self._worker
        while True:
            if gives_up is None and self.grace_left() is not None:
                return None
            newest = self.newest()
            if (
                newest is not None
                and newest.round > after
                and (gives_up is not None or worker.key in watch.present(newest))
            ):
                return newest
            if gives_up is not None and gives_up():
                raise TimeoutError(f"no membership after round {after}")
            worker.process.pause(5.0)


class Reporter:
    """What the worker tells its agent (loop/reporting.py)."""

    def __init__(self, worker: Worker) -> None:
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
        )


class Saver:
    """Checkpoints: all write their parts, the leader makes the set durable (loop/saving.py)."""

    can_save = False
    """Survivors agree on a last save by files, which are not simulated: see loop/last_save.py."""
    final_seconds = 600.0

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._rank = 0
        self._last = worker.kernel.now
        self._pending = 0
        self._failed: Any = None
        """The newest that was not made durable, for want of others' parts."""

    def enter(self, membership: Membership, *, rank: int) -> None:
        """From now on saves belong to this round."""
        del membership
        self._rank = rank

    def is_due(self) -> bool:
        """Whether the leader asks for one."""
        now = self._worker.kernel.now
        return not self._pending and now - self._last >= self._worker.world.checkpoint_seconds

    def save(self, holding: Any) -> None:
        """Write the part, in the background."""
        kernel = self._worker.kernel
        self._last = kernel.now
        self._pending += 1
        kernel.after(kernel.some(0.01, 2.0), self._written, holding)

    def save_now(self, holding: Any, *, within_seconds: float = 600.0) -> None:
        """Write the part and wait until the checkpoint is durable."""
        worker = self._worker
        self.save(holding)
        end = worker.kernel.now + within_seconds
        while self._pending:
            if worker.kernel.now > end:
                raise TrainingFailed(f"the last checkpoint (step {holding.step}) is not saved")
            worker.process.pause(0.5)
        if self._failed is holding:
            raise TrainingFailed(f"the last checkpoint (step {holding.step}) lacks parts")

    def _written(self, holding: Any) -> None:
        worker, storage = self._worker, self._worker.world.storage
        if worker.process.dead:
            return
        if worker.process.frozen:
            worker.kernel.after(1.0, self._written, holding)
            return
        ranks = storage.parts.setdefault(
            (holding.tensors["state"], holding.round, holding.world_size), {}
        )
        ranks[holding.rank] = None
        self._collect(holding, ranks, worker.kernel.now + 120.0)

    def _collect(self, holding: Any, ranks: Mapping[int, None], end: float) -> None:
        """The one of rank 0 waits for all parts, then moves `latest`; others are done."""
        worker = self._worker
        if worker.process.dead:
            return
        if holding.rank == 0 and (len(ranks) < holding.world_size or worker.process.frozen):
            if worker.kernel.now < end:
                worker.kernel.after(0.3, self._collect, holding, ranks, end)
                return
            self._failed = holding
        elif holding.rank == 0 and worker.inbox.names_me():
            worker.world.publishes(holding.tensors["state"], worker, round_=holding.round)
        self._pending -= 1
