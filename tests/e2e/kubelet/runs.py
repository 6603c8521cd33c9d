"""A job on a real node, and what tests ask about it while it runs and afterwards.

Its pods share a folder of this machine, as those of `concertina run` do: the record, checkpoints
and the words of each worker are read there. All else is asked of the API server.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from concertina_operator.cluster import paths
from concertina_operator.cluster.environment import RUN_PATH
from concertina_operator.cluster.pod import JOB_LABEL
from concertina_trainer.agent.mailbox import WorkerStatus, worker_file
from tests.cluster.api import wait_for
from tests.cluster.cluster import Cluster
from tests.cluster.fixtures import fresh_namespace
from tests.cluster.pods import python_template
from tests.e2e.records import RecordedRun

GRACE_SECONDS = 30
GONE_SECONDS = 60.0
COMPLETED_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which process trains in a pod; another start of it differs in each part but the first."""

    uid: str
    pid: int
    """As seen in the pod."""
    incarnation: str


class Operators(Protocol):
    """Who serves the job."""

    def text(self) -> str:
        """What they have printed, for the message of a failure."""


class KubeletRun(RecordedRun):
    """A job that was applied to a cluster."""

    poll_seconds = 0.2

    def __init__(
        self,
        cluster: Cluster,
        operator: Operators,
        *,
        namespace: str,
        folder: Path,
        document: Mapping[str, Any],
    ) -> None:
        self.cluster = cluster
        self.operator = operator
        self.namespace = namespace
        self.folder = folder
        self.name: str = document["metadata"]["name"]
        self.api = cluster.admin()
        folder.mkdir(parents=True, exist_ok=True)
        manifest = folder.with_suffix(".json")
        manifest.write_text(json.dumps(document))
        self.kubectl("apply", "--filename", str(manifest))

    # The job

    def kubectl(self, *arguments: str) -> str:
        """What kubectl prints, asked within the job's namespace."""
        return self.cluster.run_kubectl(f"--namespace={self.namespace}", *arguments).stdout

    def status(self) -> dict[str, Any]:
        job = self.api.find(paths.jobs(self.namespace, self.name)) or {}
        status: dict[str, Any] = job.get("status", {})
        return status

    def condition(self, name: str) -> dict[str, Any]:
        """A condition of the job; empty when it has none of the type."""
        found = self.status().get("conditions", ())
        return next((entry for entry in found if entry["type"] == name), {})

    def holds(self, name: str) -> bool:
        return self.condition(name).get("status") == "True"

    def wait_holds(self, name: str) -> None:
        self.wait(lambda: self.holds(name), f"condition {name}")

    def edit(self, **spec: Any) -> None:
        self.api.patch(paths.jobs(self.namespace, self.name), {"spec": spec})

    def finish(self) -> None:
        """Tell a task that trains until it is told, and wait as a user does."""
        (self.folder / "stop").touch()
        self.wait_completed()

    def wait_completed(self) -> None:
        limit = f"--timeout={COMPLETED_SECONDS}s"
        self.kubectl("wait", f"atj/{self.name}", "--for=condition=Completed", limit)

    def why_ended(self) -> str | None:
        for name in ("Completed", "Failed"):
            if self.holds(name):
                return f"{name}: {self.condition(name)['message']}"
        return None

    # Its pods

    def pods(self) -> dict[str, dict[str, Any]]:
        """The pod objects of the job, by name."""
        found = self.api.list(paths.pods(self.namespace), labelSelector=f"{JOB_LABEL}={self.name}")
        return {pod["metadata"]["name"]: pod for pod in found}

    def members(self) -> list[str]:
        """Uids of the pods of the newest round, in rank order."""
        membership = self.api.find(paths.memberships(self.namespace, self.name)) or {}
        members = membership.get("spec", {}).get("members", ())
        return [member["uid"] for member in members]

    def left_behind(self) -> list[str]:
        """Objects of the namespace that a job brings with it."""
        collections = (paths.pods, paths.memberships, paths.reports)
        return [
            f"{entry['metadata']['name']} of {collection.__name__}"
            for collection in collections
            for entry in self.api.list(collection(self.namespace))
        ]

    def workers(self) -> dict[str, WorkerStatus]:
        found = {}
        for pod in self.pods():
            path = worker_file(self.folder / "pods" / pod / "mailbox", 0)
            with contextlib.suppress(FileNotFoundError):
                found[pod] = WorkerStatus.model_validate_json(path.read_bytes())
        return found

    def identities(self) -> dict[str, Identity]:
        """Who trains in each pod."""
        pods, workers = self.pods(), self.workers()
        return {
            name: Identity(
                uid=pods[name]["metadata"]["uid"], pid=worker.pid, incarnation=worker.incarnation
            )
            for name, worker in workers.items()
        }

    def words(self, pod: str) -> str:
        """What the workers of all pods of this name have written, oldest first."""
        logs = (self.folder / "pods" / pod / "logs").glob("*.stderr")
        return "\n".join(log.read_text() for log in sorted(logs, key=_modified))

    def wait_between_rounds(self, *, pods: int, members: int) -> None:
        """Wait until there are so many pods, and not all of them are in the round yet."""
        self.wait(
            lambda: len(self.pods()) == pods and len(self.members()) == members,
            f"{pods} pods, {members} of them members",
        )

    def delete_pod(self, pod: str) -> None:
        self.kubectl("delete", "pod", pod, "--wait=false")

    def evict(self, pod: str) -> None:
        """What a drain of its node does with a pod."""
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        self.api.create(f"{paths.pods(self.namespace, pod)}/eviction", eviction)

    def replace(self, pod: str, take: Callable[[str], None]) -> None:
        """Take a pod away; wait for a step by as many pods as now once another has come for it."""
        uid = self.identities()[pod].uid
        number, size = self.steps()[-1]["round"], len(self.members())
        take(pod)

        def is_replaced() -> bool:
            members = self.members()
            return len(members) == size and uid not in members

        def trains() -> bool:
            last = self.steps()[-1]
            return bool(last["round"] > number and last["world_size"] == size)

        self.wait(is_replaced, f"{size} members without {pod} {uid}")
        self.wait(trains, f"a step by {size} pods without {pod} {uid}")

    # The end

    def delete(self) -> None:
        """Delete the job; nothing that it brought may be left."""
        self.kubectl("delete", "atj", self.name, "--ignore-not-found")
        wait_for(
            lambda: not self.left_behind(), lambda: f"left: {self.left_behind()}", GONE_SECONDS
        )

    def account(self) -> str:
        said = [f"{pod}\n{self.words(pod)[-4000:]}" for pod in sorted(self._folders())]
        return "\n".join(
            [
                json.dumps(self.status(), indent=1),
                self.kubectl("get", "events", "--sort-by=.metadata.creationTimestamp"),
                self.kubectl("get", "pods", "--output=wide"),
                *(self._logs(pod) for pod in self.pods()),
                *said,
                self.operator.text()[-4000:],
            ]
        )

    def _folders(self) -> list[str]:
        return [folder.name for folder in (self.folder / "pods").glob("*")]

    def _logs(self, pod: str) -> str:
        done = self.cluster.run_kubectl(
            f"--namespace={self.namespace}", "logs", pod, "--tail=60", check=False
        )
        return f"{pod}\n{done.stdout}{done.stderr}"


@contextmanager
def applied(
    cluster: Cluster,
    operator: Operators,
    folder: Path,
    document: Mapping[str, Any],
    *,
    change: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Iterator[KubeletRun]:
    """A job in a namespace of its own, whose pods run on the node; it does not outlive its test.

    `change` is made to the spec of its pods.
    """
    pods = {**document["spec"]["pods"], "template": template(folder)}
    change(pods["template"]["spec"])
    with fresh_namespace(cluster) as namespace:
        run = KubeletRun(
            cluster,
            operator,
            namespace=namespace,
            folder=folder,
            document={**document, "spec": {**document["spec"], "pods": pods}},
        )
        try:
            yield run
        finally:
            run.delete()
            run.api.close()


def template(folder: Path) -> dict[str, Any]:
    """Pods with one GPU that run what the operator gives them to run."""
    made = python_template(environment={"PATH": f"{sys.prefix}/bin:/usr/bin:/bin"})
    (container,) = made["spec"]["containers"]
    container["volumeMounts"].append({"name": "run", "mountPath": RUN_PATH})
    volume = {"name": "run", "hostPath": {"path": str(folder), "type": "Directory"}}
    made["spec"]["volumes"].append(volume)
    made["spec"]["terminationGracePeriodSeconds"] = GRACE_SECONDS
    return made


def _modified(path: Path) -> float:
    return path.stat().st_mtime
