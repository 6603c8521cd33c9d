"""The agent of a pod: a model of agent/pod.py over the real report (`compose`, `Publisher`).

The stores of rounds and the counting of restarts are real too; its mailbox is a field. The calls to
peers follow agent/reach.py: who to call is the real `peers`, answers are the network's.
"""

from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING

from concertina_api.v1alpha1 import Failure, FailureCause, Membership, PodPhase, Report
from concertina_trainer.agent.failure import may_restart
from concertina_trainer.agent.mailbox import WorkerStatus
from concertina_trainer.agent.publisher import Publisher
from concertina_trainer.agent.reach import MISSES, peers
from concertina_trainer.agent.report import AgentFacts, compose
from concertina_trainer.agent.stores import RoundStores
from tests.simulation.api_server import API, Unreachable, Watch
from tests.simulation.kernel import Process
from tests.simulation.network import Server
from tests.simulation.worker import Worker

if TYPE_CHECKING:
    from tests.simulation.pods import Pod

PING_SECONDS = {PodPhase.TRAINING: 1.0, PodPhase.WAITING: 1.0}
SILENT_SECONDS = 4.0
"""A worker that shows no sign for so long is killed by its agent."""
KILL_MARGIN_SECONDS = 2.0
REVIEW_SECONDS = 30.0
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Agent:
    """The agent of a pod; it turns when something has changed."""

    def __init__(self, pod: "Pod") -> None:
        self.pod, self.world, self.kernel = pod, pod.world, pod.kernel
        self.ended = False
        self.incarnation = ""
        self.mail: Membership | None = None
        """The newest membership, as workers read it."""
        self.deadline: float | None = None
        """When workers that have not left are killed."""
        self.workers: list[Worker] = []
        self._codes: dict[int, int] = {}
        self._starts = 0
        self._failure: Failure | None = None
        self._failed_steps: list[int] = []
        self._step = 0
        self._given_up = False
        self._relayed = 0
        self._misses: dict[str, int] = {}
        self._ports = count(4000)
        self._stores = RoundStores(self._bind)
        self._outbox: Report | None = None
        self._written: Report | None = None
        self.progress_seconds = 30.0
        self._publisher = Publisher(self)
        self._seen_membership = False
        self.process = Process(self.kernel, f"agent {pod.name}", self._main)
        pod.place.agent = self.process
        self._sender = Process(self.kernel, f"sender {pod.name}", self._send_all)
        self._caller = Process(self.kernel, f"caller {pod.name}", self._call_all)
        self._watch = Watch(
            self.world.api,
            "membership",
            hears=lambda: self.world.network.reaches(pod.uid, API) and not self.process.frozen,
            news=self.look,
        )

    # What happens to it.

    def told_to_end(self, grace: float) -> None:
        """SIGTERM."""
        if self.deadline is None:
            margin = min(KILL_MARGIN_SECONDS, grace / 10)
            self.deadline = self.kernel.now + grace - margin
            self.kernel.say(f"{self.pod.name}: told to end within {grace:g} s")
            self.look()
            self.kernel.after(self.deadline - self.kernel.now, self.look)

    def killed(self, code: int) -> None:
        """SIGKILL for the whole pod."""
        for worker in self.workers:
            worker.kill()
        self._end(code)

    def freeze(self) -> None:
        """SIGSTOP for the whole pod."""
        for process in self._processes():
            process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        for process in self._processes():
            process.thaw()
        self.look()

    def look(self) -> None:
        """Something has changed: take a turn soon."""
        if not self.ended:
            self.process.wake(self.kernel.some(0.0, 0.1))

    def ended_worker(self, worker: Worker, code: int) -> None:
        """A worker's process has ended."""
        if worker.incarnation == self.incarnation and not self.ended:
            self._codes[worker.local_rank] = code
            self.look()

    # What it does.

    def _main(self) -> None:
        self.process.sleep(self.kernel.some(0.1, 1.0))
        self._begin()
        while not self.ended:
            self._turn()
            if not self.ended:
                self.process.pause(self.progress_seconds / 4)

    def _begin(self) -> None:
        self._starts += 1
        self.incarnation = f"i{self._starts}"
        self._codes = {}
        size = self.world.job.spec.pods.workers_per_pod
        self.workers = [Worker(self, local_rank) for local_rank in range(size)]

    def _turn(self) -> None:
        if self._gone():
            self._kill_workers("the membership is gone")
            return
        self._relay()
        if self.deadline is not None and (not self._is_warm() or self._is_late()):
            self._kill_workers("told to end")
            return
        if any(self._codes.values()):
            self._record_failure()
        elif self.workers and len(self._codes) == len(self.workers):
            self._close(int(self._given_up))
            return
        if self._is_warm():
            self._stores.open()
        if self.mail is not None and self.mail.members:
            leader = self.mail.members[0]
            if leader.uid == self.pod.uid:
                self._stores.serve(self.mail.round, port=leader.port)
        self._stores.retire(max((one.round for one in self._statuses()), default=0))
        self._keep_ports()
        self._publish()

    def _gone(self) -> bool:
        """Whether the membership was there and is deleted."""
        known = self._watch.known.get("job")
        self._seen_membership = self._seen_membership or known is not None
        return self._seen_membership and known is None

    def _relay(self) -> None:
        known = self._watch.known.get("job")
        if known is None or known.value == self.mail:
            return
        self.mail = known.value
        for member in self.mail.leaving:
            if member.uid == self.pod.uid and member.grace_seconds is not None and self.deadline:
                self.deadline = min(self.deadline, self.kernel.now + member.grace_seconds)
        for worker in self.workers:
            worker.read_mail()
        self.kernel.poke()

    def _is_warm(self) -> bool:
        statuses = self._statuses()
        return (
            bool(statuses)
            and len(statuses) == len(self.workers)
            and all(status.phase is not PodPhase.STARTING for status in statuses)
        )

    def _is_late(self) -> bool:
        return self.deadline is not None and self.kernel.now >= self.deadline

    def _statuses(self) -> tuple[WorkerStatus, ...]:
        statuses = tuple(worker.status for worker in self.workers)
        self._step = max([self._step, *(one.progress.step for one in statuses if one.progress)])
        return statuses

    def _record_failure(self) -> None:
        """As agent/pod.py: a worker ended badly; the others of the pod are started anew with it."""
        local_rank = min(rank for rank, code in self._codes.items() if code)
        code, status = self._codes[local_rank], self.workers[local_rank].status
        self.world.bad_ends += 1
        self._failure = status.failure or Failure(
            round=status.round,
            rank=status.rank,
            incarnation=self.incarnation,
            cause=FailureCause.SIGNAL if code < 0 else FailureCause.EXIT_CODE,
            message=f"exit code {code}",
        )
        restart = may_restart(self._failed_steps, step=self._step)
        self._failed_steps.append(self._step)
        for worker in self.workers:
            worker.kill()
        if self._failure.permanent or self.deadline is not None or not restart:
            self._given_up = True
            self._close(1)
            return
        self._begin()

    def _kill_workers(self, why: str) -> None:
        self.kernel.say(f"{self.pod.name}: {why}: killing the workers")
        is_warm = self._is_warm()
        for worker in self.workers:
            worker.kill()
        self._given_up = True
        leaves_nothing = self.deadline is not None and not is_warm
        self._close(0 if leaves_nothing else 1)

    def _close(self, code: int) -> None:
        """The last report, as far as the server takes it in time, and the end."""
        self._publisher.flush(self._report(), now=self.kernel.now)
        end = self.kernel.now + 30.0
        while self._written is not self._outbox and self.kernel.now < end:
            if self._gone() or self._is_late():
                break
            self.process.pause(0.2)
        self._end(code)

    def _end(self, code: int) -> None:
        if self.ended:
            return
        self.ended = True
        if self._watch in self.world.api.watches["membership"]:
            self._watch.close()
        for process in (self.process, self._sender, self._caller):
            process.kill()
        self.pod.place.servers.clear()
        self.kernel.say(f"{self.pod.name}: ends with code {code}")
        self.pod.ended(code)
        self.kernel.poke()

    def _processes(self) -> list[Process]:
        agent = [self.process, self._sender, self._caller]
        return [*agent, *(worker.process for worker in self.workers)]

    # Stores.

    def _bind(self) -> Server:
        server = Server(self.kernel, self.pod.place, next(self._ports))
        self.pod.place.servers[server.port] = server
        return server

    def _keep_ports(self) -> None:
        """What the agent holds no reference to is closed."""
        ports = {self._stores.port, *(one.port for one in self._stores._serving.values())}
        for port in [port for port in self.pod.place.servers if port not in ports]:
            del self.pod.place.servers[port]

    # The report.

    def _report(self) -> Report:
        leaves_nothing = self.deadline is not None and not self._is_warm()
        return compose(
            self._statuses(),
            AgentFacts(
                pod=self.pod.name,
                uid=self.pod.uid,
                incarnation=self.incarnation,
                host=self.pod.uid,
                port=self._stores.port,
                workers=len(self.workers),
                membership=self.mail,
                leaving=self.deadline is not None,
                suspects=tuple(pod for pod, misses in self._misses.items() if misses >= MISSES),
                failure=self._failure,
                given_up=self._given_up and not leaves_nothing,
            ),
            now=_EPOCH,
        )

    def _publish(self) -> None:
        report = self._report()
        self._publisher.publish(report, now=self.kernel.now)
        if self._outbox is None or replace_time(self._outbox, report) != report:
            self.kernel.after(1.0, self.look)

    def send(self, report: Report) -> None:
        """See ReportSink."""
        self._outbox = report
        self._sender.wake()

    def settled(self, *, within_seconds: float) -> bool:
        """See ReportSink."""
        del within_seconds
        return self._written is self._outbox

    def _send_all(self) -> None:
        process, api = self._sender, self.world.api
        while True:
            while self._outbox is None or self._written is self._outbox:
                process.pause(REVIEW_SECONDS)
                stored = api.objects["report"].get(self.pod.name)
                if self._written is not None and stored is None:
                    self._written = None
            report = self._outbox
            process.sleep(self.kernel.some(0.005, 0.1))
            try:
                if not self.world.network.reaches(self.pod.uid, API):
                    raise Unreachable
                api.put_report(report)
                self._written = report
                self.process.wake()
            except Unreachable:
                process.sleep(self.kernel.some(0.5, 3.0))

    # Calls.

    def _call_all(self) -> None:
        process = self._caller
        while True:
            phase = self._phase()
            process.sleep(PING_SECONDS.get(phase, 1.0) * self.kernel.some(0.9, 1.1))
            before = tuple(pod for pod, misses in self._misses.items() if misses >= MISSES)
            wanted = peers(self.mail, uid=self.pod.uid, phase=phase)
            misses = {}
            for member in wanted:
                told = self._misses.get(member.pod, 0)
                misses[member.pod] = 0 if self._answers(member.uid) else told + 1
            self._misses = misses
            self._watch_workers()
            if before != tuple(pod for pod, number in misses.items() if number >= MISSES):
                self.look()

    def _phase(self) -> PodPhase:
        phases = {worker.status.phase for worker in self.workers}
        if PodPhase.WAITING in phases:
            return PodPhase.WAITING
        return PodPhase.TRAINING if phases == {PodPhase.TRAINING} else PodPhase.STARTING

    def _answers(self, uid: str) -> bool:
        other = self.world.by_uid.get(uid)
        agent = other.agent if other is not None else None
        if agent is None or agent.ended or agent.process.frozen:
            return False
        return self.world.network.reaches(self.pod.uid, uid)

    def _watch_workers(self) -> None:
        """A worker that is silent while its agent lives is killed."""
        for worker in self.workers:
            since = worker.frozen_since
            if since is not None and self.kernel.now - since > SILENT_SECONDS:
                self.kernel.say(f"{worker.name}: silent, killed by its agent")
                worker.kill(code=-9)


def replace_time(report: Report, other: Report) -> Report:
    """The report with the time of another, to compare the rest."""
    return report.model_copy(update={"time": other.time})
