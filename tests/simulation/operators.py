"""The operator's process around the real `plan`: caches, the lease, the order of writes.

A model of cluster/reconcile.py, apply.py and lease.py: plan from what the watches say, store the
status with the version that was planned from, then act; between any two writes it may die, or stop
for longer than its lease lasts.
"""

from datetime import timedelta

from concertina_api.v1alpha1 import JobStatus
from concertina_operator.actions import CreatePod, DeletePod, Plan, PublishMembership
from concertina_operator.cluster.lease import DURATION_SECONDS, RENEW_SECONDS
from concertina_operator.cluster.lease import RETRY_SECONDS as RENEWAL_SECONDS
from concertina_operator.departures import OVER
from concertina_operator.observed import Observed
from concertina_operator.plan import plan
from tests.concertina_operator.factories import at
from tests.simulation.api_server import API, ApiServer, Conflict, Stored, Unreachable, Watch
from tests.simulation.history import Judge
from tests.simulation.kernel import Kernel, Process
from tests.simulation.network import Network

RETRY_SECONDS = 1.0
STATUS_SECONDS = 60.0
_CLOCKS = ("gpus", "gpu_seconds", "training_gpu_seconds", "idle_gpu_seconds", "gpu_counted_at")
_SLOW = (*_CLOCKS, "progress", "useful_gpu_seconds")


class Lease:
    """Who leads, as the API server stores it."""

    def __init__(self) -> None:
        self.holder = ""
        self.renewed_at = float("-inf")


class Operator:
    """One of the operator's pods, which comes back when it crashes."""

    def __init__(
        self,
        kernel: Kernel,
        network: Network,
        api: ApiServer,
        judge: Judge,
        lease: Lease,
        name: str,
    ) -> None:
        self._kernel, self._network, self._api, self._judge = kernel, network, api, judge
        self._lease = lease
        self.name = name
        self.place = f"operator-{name}"
        self.process: Process
        self._watches: dict[str, Watch] = {}
        self._unanswered: set[str] = set()
        """Pods that were asked for; nobody said whether they are there."""
        self._wake = True
        self._renewed_at = float("-inf")
        self.start()

    def start(self) -> None:
        """The process starts, with nothing remembered."""
        self.process = Process(self._kernel, self.place, self._main)

    @property
    def leads_now(self) -> bool:
        """Whether it holds the lease."""
        return self._lease.holder == self.name

    def crash(self) -> None:
        """Kill -9, at whatever it is."""
        self.process.kill()
        self._forget()

    def _forget(self) -> None:
        """What a new process does not know."""
        for watch in self._watches.values():
            watch.close()
        self._watches = {}
        self._unanswered = set()

    def _main(self) -> None:
        while True:
            if not self._leads():
                self._forget()  # a lost lease ends the process, and another begins
                self.process.sleep(self._kernel.some(1.0, 3.0))
                continue
            if not self._watches:
                self._list()
            wait = self._turn()
            self._wake_after(wait)

    def _leads(self) -> bool:
        """Try to hold the lease."""
        lease, now = self._lease, self._kernel.now
        if not self._reaches():
            return now - self._renewed_at < RENEW_SECONDS
        if lease.holder != self.name and now - lease.renewed_at < DURATION_SECONDS:
            return False
        if now - self._renewed_at > RENEWAL_SECONDS or lease.holder != self.name:
            if lease.holder != self.name:
                self._forget()  # who leads anew lists everything anew
            lease.holder, lease.renewed_at = self.name, now
            if self._api.loses_answer(f"lease of {self.name}"):
                return now - self._renewed_at < RENEW_SECONDS
            self._renewed_at = now
        return True

    def _reaches(self) -> bool:
        return self._api.up and self._network.reaches(self.place, API)

    def _list(self) -> None:
        process = self.process
        for kind in self._api.objects:
            self._watches[kind] = Watch(
                self._api,
                kind,
                hears=lambda: self._network.reaches(self.place, API) and not process.frozen,
                news=self._news,
            )

    def _news(self) -> None:
        self._wake = True
        self.process.wake(self._kernel.some(0.001, 0.02))

    def _wake_after(self, wait: float) -> None:
        end = self._kernel.now + wait
        while not self._wake and self._kernel.now < end:
            if not self._leads():
                return
            left = min(end - self._kernel.now, RENEWAL_SECONDS)
            self.process.pause(left)
        if self._wake:
            self._wake = False

    def _turn(self) -> float:
        """One reconcile; the time until the next without any news."""
        try:
            return self._reconcile()
        except (Conflict, Unreachable):
            return RETRY_SECONDS

    def _reconcile(self) -> float:
        stored = self._watches["job"].known["job"]
        membership = self._watches["membership"].known.get("job")
        pods = self._watches["pod"].known
        reports = self._watches["report"].known
        self._look_at_unanswered()
        self._hear_last_words(pods, reports)
        observed = Observed(
            job=stored.value,
            membership=membership.value if membership else None,
            reports={name: report.value for name, report in reports.items()},
            pods=tuple(pod.value for pod in pods.values()),
        )
        versions = {pod.value.uid: pod.version for pod in pods.values()}
        decided = plan(observed, at(self._kernel.now))
        self._judge.counts.plans += 1
        self._kernel.say(f"{self.place}: {decided.reason}")
        self._confirm(decided, stored.value.status, version=stored.version)
        for action in decided.actions:
            self._call()
            match action:
                case PublishMembership():
                    version = membership.version if membership else None
                    answer = self._api.put_membership(action.membership, version=version)
                    self._watches["membership"].take_answer("job", answer.version, answer.value)
                case CreatePod():
                    self._create(action.name)
                case DeletePod():
                    self._delete(action, version=versions.get(action.uid))
        if decided.actions:
            return RETRY_SECONDS
        wait = decided.requeue_after
        return STATUS_SECONDS if wait is None else min(wait.total_seconds(), STATUS_SECONDS)

    def _look_at_unanswered(self) -> None:
        """As cluster/unanswered.py: the watch may be late."""
        for name in sorted(self._unanswered):
            self._call()
            if (found := self._api.objects["pod"].get(name)) is not None:
                self._watches["pod"].take_answer(name, found.version, found.value)
            self._unanswered.discard(name)

    def _hear_last_words(self, pods: dict[str, Stored], reports: dict[str, Stored]) -> None:
        """As cluster/last_words.py: pods and reports are watched apart."""
        for name, pod in list(pods.items()):
            said = reports[name].value.phase if name in reports else None
            if pod.value.exit_code == 0 and said not in OVER:
                self._call()
                if (found := self._api.objects["report"].get(name)) is not None:
                    self._watches["report"].take_answer(name, found.version, found.value)

    def _confirm(self, decided: Plan, before: JobStatus, *, version: int) -> None:
        """Store the status, or read the job, so that nothing is done from an old one."""
        urgent = _without(before, _SLOW) != _without(decided.status, _SLOW)
        counted = before.gpu_counted_at
        is_old = counted is None or at(self._kernel.now) - counted > timedelta(
            seconds=STATUS_SECONDS
        )
        if urgent or decided.actions or (is_old and decided.status != before):
            self._call()
            answer = self._api.patch_status(decided.status, version=version)
            self._watches["job"].take_answer("job", answer.version, answer.value)

    def _create(self, name: str) -> None:
        self._unanswered.add(name)
        try:
            answer = self._api.create_pod(name)
        except Conflict:
            answer = self._api.objects["pod"][name]
        self._watches["pod"].take_answer(name, answer.version, answer.value)
        self._unanswered.discard(name)

    def _delete(self, action: DeletePod, *, version: int | None) -> None:
        try:
            self._api.delete_pod(
                action.name,
                uid=action.uid,
                version=version,
                grace=action.grace_seconds,
                reason=action.reason,
            )
        except Conflict:
            return

    def _call(self) -> None:
        """A request is on its way, for a while; its process may end before it arrives."""
        self.process.sleep(self._kernel.some(0.002, 0.05))
        if not self._reaches() or self._kernel.now - self._renewed_at >= RENEW_SECONDS:
            raise Unreachable


def _without(status: JobStatus, fields: tuple[str, ...]) -> dict:
    values = dict(status.__dict__)
    for name in fields:
        values.pop(name, None)
    return values
