"""Agents of one job on a control plane that has no kubelet, moved turn by turn by the test.

What they do is that of the imagined cluster of the plan's tests; here they see real pods and a real
membership, and write real reports and pod statuses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from concertina_api.v1alpha1 import TrainingMembership, TrainingReport
from tests.cluster.api import Api, ApiFailure, wait_for
from tests.concertina_operator.cluster.installed import GROUP
from tests.concertina_operator.cluster.jobs import a_job
from tests.concertina_operator.imagined_cluster import FakeCluster, FakePod

NODE = "imagined"
"""A node that nobody runs: its pods are what the test says."""


def prepare_node(api: Api) -> None:
    if api.find(f"/api/v1/nodes/{NODE}") is None:
        api.create("/api/v1/nodes", {"metadata": {"name": NODE}})


def a_trained_job(name: str = "tiny-lm", **spec: Any) -> dict[str, Any]:
    """A job of 1, 2 or 4 pods that grows as soon as it asks."""
    template = {"spec": {"nodeName": NODE, "containers": [{"name": "trainer", "image": "x"}]}}
    return a_job(
        name,
        **{
            "samples": 1_000_000,
            "batch": {"microBatchSize": 8, "initial": 32, "max": 512, "maxAccumulation": 4},
            "pods": {"min": 1, "max": 4, "allowed": [1, 2, 4], "template": template},
            "scaling": {"scaleUpCooldownSeconds": 0, "scaleDownCooldownSeconds": 0},
        }
        | spec,
    )


@dataclass(kw_only=True)
class Trainers:
    """The agents of one job."""

    api: Api
    namespace: str
    job: str = "tiny-lm"
    workers: int = 1
    """Of a pod."""
    imagined: FakeCluster = field(default_factory=FakeCluster)
    told: dict[str, object] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    """Names of pods whose agents do not start."""

    def turn(self) -> None:
        """Everybody looks once, acts, and says what has changed."""
        self._see()
        before = dict(self.imagined.pods)
        self.imagined.act()
        for name, pod in before.items():
            if name not in self.imagined.pods:
                self._end(pod)
        for pod in self.imagined.pods.values():
            with passing_over_absent():
                self._report(pod)
                self._show(pod)

    def until(self, condition, what: str, *, seconds: float = 60.0):
        """Turns until the condition holds; its value."""

        def look():
            self.turn()
            return condition()

        return wait_for(look, lambda: f"{what}; {self.status()}", seconds)

    def until_trained_by(self, *names: str) -> None:
        """Turns until exactly these pods train, and the operator knows it."""

        def trained():
            at_work = self.imagined.trains and self.imagined.members == list(names)
            return at_work and self.status().get("worldSize") == len(names) * self.workers

        self.until(trained, f"{names} do not train")

    def status(self) -> dict[str, Any]:
        return self.find().get("status", {})

    def condition(self, name: str) -> dict[str, Any]:
        """A condition of the job; empty when it has none of the type."""
        found = self.status().get("conditions", ())
        return next((entry for entry in found if entry["type"] == name), {})

    def holds(self, name: str, status: str = "True") -> bool:
        return self.condition(name).get("status") == status

    def find(self) -> dict[str, Any]:
        return self.api.find(f"{self.group}/adaptivetrainingjobs/{self.job}") or {}

    def create(self, document: dict[str, Any]) -> dict[str, Any]:
        return self.api.create(f"{self.group}/adaptivetrainingjobs", document)

    def edit(self, **spec: Any) -> None:
        self.api.patch(f"{self.group}/adaptivetrainingjobs/{self.job}", {"spec": spec})

    def pods(self) -> dict[str, dict[str, Any]]:
        """The pod objects of the job, by name."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        found = self.api.list(path, labelSelector=f"concertina.dev/job={self.job}")
        return {pod["metadata"]["name"]: pod for pod in found}

    def membership(self) -> dict[str, Any] | None:
        return self.api.find(f"{self.group}/trainingmemberships/{self.job}")

    def events(self) -> list[str]:
        """Reasons of the job's events, oldest first."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        found = [
            event for event in self.api.list(path) if event["regarding"].get("name") == self.job
        ]
        return [event["reason"] for event in sorted(found, key=lambda event: event["eventTime"])]

    @property
    def group(self) -> str:
        return f"{GROUP}/namespaces/{self.namespace}"

    def _see(self) -> None:
        found, known = self.pods(), self.imagined.pods
        for name in list(known):
            if name not in found or found[name]["metadata"]["uid"] != known[name].uid:
                del known[name]
        for name, document in found.items():
            metadata = document["metadata"]
            fresh = FakePod(name=name, uid=metadata["uid"], created=0, workers=self.workers)
            pod = known.setdefault(name, fresh)
            pod.host = document.get("status", {}).get("podIP", pod.host)
            if pod.phase is None:
                # Nothing runs in a pod that the scheduler has no place for.
                pod.silent = name in self.held or "nodeName" not in document["spec"]
            if "deletionTimestamp" in metadata and not pod.deleting:
                pod.deleting = True
                pod.doomed = not pod.runs or pod.phase is None
        document = self.membership()
        self.imagined.membership = (
            TrainingMembership.model_validate(document).spec if document is not None else None
        )

    def _report(self, pod: FakePod) -> None:
        report = pod.report()
        if report is None or self.told.get(f"report/{pod.uid}") == report:
            return
        path = f"{self.group}/trainingreports"
        document = TrainingReport(spec=report).model_dump(mode="json", by_alias=True)
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}
        document["metadata"] = {"name": pod.name, "ownerReferences": [owner]}
        if self.api.find(f"{path}/{pod.name}") is None:
            self.api.create(path, _without_nulls(document))
        else:
            self.api.patch(f"{path}/{pod.name}", document)
        self.told[f"report/{pod.uid}"] = report

    def _show(self, pod: FakePod) -> None:
        """What the kubelet would say of the pod."""
        shown = (pod.facts().phase, pod.exit_code)
        if pod.phase is None or self.told.get(f"status/{pod.uid}") == shown:
            return
        status: dict[str, Any] = {"phase": shown[0].value}
        if pod.exit_code is not None:
            state = {"terminated": {"exitCode": pod.exit_code}}
            container = {"name": "trainer", "image": "x", "imageID": "x", "restartCount": 0}
            status["containerStatuses"] = [container | {"ready": False, "state": state}]
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod.name}/status"
        self.api.patch(path, {"status": status})
        self.told[f"status/{pod.uid}"] = shown

    def _end(self, pod: FakePod) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod.name}"
        self.api.delete(path, gracePeriodSeconds=0, preconditions={"uid": pod.uid})


@contextmanager
def passing_over_absent() -> Iterator[None]:
    """For what is deleted while the test looks away: the next turn sees it."""
    try:
        yield
    except ApiFailure as failure:
        if failure.status != HTTPStatus.NOT_FOUND:
            raise


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value
