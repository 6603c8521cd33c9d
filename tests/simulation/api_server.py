"""The API server: objects with versions, conflicts, preconditions, and watches that lag behind.

One job. What is read through a watch is old by a random time, never out of order for one kind;
writes to an object carry the version they were made from, as the product's do.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from concertina_api.v1alpha1 import AdaptiveTrainingJob, JobStatus, Membership, Report
from concertina_operator.observed import PodFacts
from tests.simulation.history import Judge
from tests.simulation.kernel import Kernel

API = "api"
"""The place of the API server in the network."""


class Conflict(Exception):
    """The object is not what the writer took it for."""


class Unreachable(Exception):
    """No answer from the API server, whether it has done what was asked or not."""


def answers_all(what: str) -> bool:
    """No answer is lost."""
    del what
    return False


@dataclass(slots=True)
class Stored:
    """An object and its resourceVersion."""

    version: int
    value: Any


class Watch:
    """What one client has heard of all objects of a kind, in order and late."""

    def __init__(
        self, api: "ApiServer", kind: str, *, hears: Callable[[], bool], news: Callable[[], None]
    ) -> None:
        self._api, self._kind = api, kind
        self._hears, self._news = hears, news
        self.known: dict[str, Stored] = {}
        self.watched_to = 0
        self._coming: deque[tuple[str, int, Any]] = deque()
        self._is_due = False
        for name, stored in api.objects[kind].items():
            self.known[name] = Stored(stored.version, stored.value)
        self.watched_to = api.version
        api.watches[kind].append(self)

    def tell(self, name: str, version: int, value: Any) -> None:
        """Something was written; None: deleted."""
        self._coming.append((name, version, value))
        self._pump()

    def take_answer(self, name: str, version: int, value: Any) -> None:
        """The answer to an own write: news only where the watch has not come that far."""
        known = self.known.get(name)
        if version > self.watched_to and (known is None or version > known.version):
            self.known[name] = Stored(version, value)

    def close(self) -> None:
        """The client is gone."""
        self._api.watches[self._kind].remove(self)

    def _pump(self) -> None:
        if not self._is_due and self._coming:
            self._is_due = True
            self._api.kernel.after(self._api.lag(), self._deliver)

    def _deliver(self) -> None:
        self._is_due = False
        if not self._api.up or not self._hears():
            self._is_due = True
            self._api.kernel.after(self._api.kernel.some(0.5, 2.0), self._deliver)
            return
        while self._coming:
            name, version, value = self._coming.popleft()
            known = self.known.get(name)
            self.watched_to = max(self.watched_to, version)
            if value is None:
                self.known.pop(name, None)
            elif known is None or known.version < version:
                self.known[name] = Stored(version, value)
            if self._api.kernel.random.random() < 0.3:
                break  # the rest comes a moment later
        self._pump()
        self._news()


class ApiServer:
    """Job, membership, pods and reports of one job."""

    def __init__(self, kernel: Kernel, judge: Judge, job: AdaptiveTrainingJob) -> None:
        self.kernel = kernel
        self.judge = judge
        self.up = True
        self.version = 1
        self.objects: dict[str, dict[str, Stored]] = {
            kind: {} for kind in ("job", "membership", "pod", "report")
        }
        self.watches: dict[str, list[Watch]] = {kind: [] for kind in self.objects}
        self.slow = False
        self.loses_answer: Callable[[str], bool] = answers_all
        """Whether a writer is not told that this was written."""
        self.kubelet_create: Callable[[PodFacts], None]
        self.kubelet_delete: Callable[[PodFacts], None]
        self._num_uids = 0
        self._newest_round = 0
        self._planned_max = 0
        """The largest number of pods by the spec of the newest plan."""
        self.published: dict[int, Membership] = {}
        """Every round, as it was last written."""
        self._write("job", "job", job)

    def lag(self) -> float:
        """How late a watch hears."""
        random = self.kernel.random
        if self.slow or random.random() < 0.02:
            return random.uniform(0.5, 5.0)
        return random.uniform(0.005, 0.15)

    @property
    def job(self) -> AdaptiveTrainingJob:
        """As it is stored now."""
        return self.objects["job"]["job"].value

    @property
    def membership(self) -> Membership | None:
        """As it is stored now."""
        stored = self.objects["membership"].get("job")
        return stored.value if stored else None

    def pods(self) -> list[PodFacts]:
        """As they are stored now."""
        return [stored.value for stored in self.objects["pod"].values()]

    # Writes of the operator. Raise Unreachable, Conflict.

    def patch_status(self, status: JobStatus, *, version: int) -> Stored:
        """Store a status that was planned from the job of this version."""
        self._answer()
        stored = self.objects["job"]["job"]
        if stored.version != version:
            raise Conflict("job")
        self.judge.check(
            status.round >= stored.value.status.round
            and status.committed_round >= stored.value.status.committed_round,
            f"the status goes back to round {status.round}",
        )
        self._planned_max = self.job.spec.pods.max
        answer = self._write("job", "job", stored.value.model_copy(update={"status": status}))
        self._send("status")
        return answer

    def put_membership(self, membership: Membership, *, version: int | None) -> Stored:
        """Replace the membership of that version; None: create it."""
        self._answer()
        stored = self.objects["membership"].get("job")
        if (stored.version if stored else None) != version:
            raise Conflict("membership")
        number = membership.round
        self.judge.check(
            number >= self._newest_round, f"round {number} comes after round {self._newest_round}"
        )
        if stored is None:
            self.judge.check(
                number > self._newest_round, f"round {number} is published a second time"
            )
        if number > self._newest_round:
            self.judge.counts.rounds += 1
            self.judge.counts.losses += len(membership.lost)
        self._newest_round = number
        self.published[number] = membership
        self.kernel.say(f"api: round {number} of {_names(membership)} probe {membership.probe}")
        answer = self._write("membership", "job", membership)
        self._send(f"round {number}")
        return answer

    def create_pod(self, name: str) -> Stored:
        """Create a pod."""
        self._answer()
        if name in self.objects["pod"]:
            raise Conflict(name)
        self._num_uids += 1
        pod = PodFacts(
            name=name,
            uid=f"{name.rpartition('-')[2]}u{self._num_uids}",
            created=self.moment(),
            placed=False,
        )
        self.kernel.say(f"api: pod {name} ({pod.uid}) is created")
        stored = self._write("pod", name, pod)
        # Who lowers it may be overtaken by what was planned and confirmed just before.
        limit = max(self.job.spec.pods.max, self._planned_max)
        there = [one.name for one in self.pods() if not one.deleting and not one.ended]
        self.judge.check(
            len(there) <= limit, f"pods {', '.join(there)} at once, but max is {limit}"
        )
        self.kubelet_create(pod)
        self._send(f"creation of {name}")
        return stored

    def delete_pod(
        self, name: str, *, uid: str, version: int | None, grace: int | None, reason: str
    ) -> None:
        """Delete exactly this pod."""
        self._answer()
        stored = self.objects["pod"].get(name)
        if stored is None:
            return
        if stored.value.uid != uid or (version is not None and stored.version != version):
            raise Conflict(name)
        self.kernel.say(f"api: pod {name} ({uid}) is to be deleted: {reason}, grace {grace}")
        self.begin_deletion(name, grace=grace)
        self._send(f"deletion of {name}")

    # What the cluster does.

    def begin_deletion(self, name: str, *, grace: int | None) -> None:
        """Mark a pod; with no grace at all it is gone at once, whatever runs."""
        pod: PodFacts = self.objects["pod"][name].value
        grace = 30 if grace is None else grace
        if pod.deleting:
            grace = min(grace, pod.grace_seconds or 0)
        if grace == 0 or not pod.placed:
            self.remove_pod(name)
        else:
            self.change_pod(name, deleting=True, grace_seconds=grace)
        self.kubelet_delete(replace(pod, deleting=True, grace_seconds=grace))

    def change_pod(self, name: str, **facts: Any) -> None:
        """The kubelet or a controller writes a pod."""
        stored = self.objects["pod"].get(name)
        if stored is not None:
            self._write("pod", name, replace(stored.value, **facts))

    def remove_pod(self, name: str) -> None:
        """A pod object is gone, and its report with it."""
        if name in self.objects["pod"]:
            self._remove("pod", name)
            self._remove("report", name)

    def put_report(self, report: Report) -> None:
        """A pod's report; one of a pod that is gone is not taken."""
        self._answer()
        pod = self.objects["pod"].get(report.pod)
        if pod is not None and pod.value.uid == report.uid:
            self._write("report", report.pod, report)
            self._send(f"report of {report.pod}")

    def forget_membership(self) -> None:
        """Somebody deletes the membership."""
        self._remove("membership", "job")

    def forget_report(self, name: str) -> None:
        """Somebody deletes a report."""
        self._remove("report", name)

    def change_spec(self, **fields: Any) -> None:
        """The user edits the job."""
        job = self.job
        metadata = job.metadata.model_copy(update={"generation": job.metadata.generation + 1})
        spec = job.spec.model_copy(update=fields)
        self._write("job", "job", job.model_copy(update={"spec": spec, "metadata": metadata}))

    def moment(self) -> Any:
        """Now, as the API server stamps objects."""
        from tests.concertina_operator.factories import at

        return at(self.kernel.now).replace(microsecond=0)

    def _answer(self) -> None:
        if not self.up:
            raise Unreachable

    def _send(self, what: str) -> None:
        """The answer to a write that is done goes out; it may be lost."""
        if self.loses_answer(what):
            raise Unreachable

    def _write(self, kind: str, name: str, value: Any) -> Stored:
        self.version += 1
        stored = Stored(self.version, value)
        self.objects[kind][name] = stored
        for watch in list(self.watches[kind]):
            watch.tell(name, self.version, value)
        return stored

    def _remove(self, kind: str, name: str) -> None:
        if self.objects[kind].pop(name, None) is not None:
            self.version += 1
            for watch in list(self.watches[kind]):
                watch.tell(name, self.version, None)


def _names(membership: Membership) -> str:
    members = ",".join(f"{member.pod}.{member.incarnation}" for member in membership.members)
    leaving = ",".join(member.pod for member in membership.leaving)
    lost = ",".join(member.pod for member in membership.lost)
    told = f"[{members}]"
    told += f" leaving [{leaving}]" if leaving else ""
    told += f" lost [{lost}]" if lost else ""
    return told if membership.intent == "Run" else f"{told} {membership.intent.value}"
