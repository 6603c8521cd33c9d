"""A reconciler that a test calls itself, on a real API server, with a clock of the test.

Nothing is watched: it knows of the job what it is shown, and of other objects what its own writes
were answered.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from concertina_operator.cluster.apply import Hands
from concertina_operator.cluster.bindings import TrainerBindings
from concertina_operator.cluster.client import Api
from concertina_operator.cluster.errors import Unreachable
from concertina_operator.cluster.events import Events
from concertina_operator.cluster.facts import read_job, read_membership, read_report
from concertina_operator.cluster.last_words import LastWords
from concertina_operator.cluster.metrics import Metrics
from concertina_operator.cluster.observe import Watched
from concertina_operator.cluster.pod_facts import read_pod
from concertina_operator.cluster.queue import Queue
from concertina_operator.cluster.rate import Rate
from concertina_operator.cluster.reconcile import Reconciler
from concertina_operator.cluster.refusals import Refusals
from concertina_operator.cluster.store import Key, key_of, version_of
from concertina_operator.cluster.target import Target
from tests.concertina_operator.factories import START


class CountedApi(Api):
    """An API client that counts what it sends, and may lose it on the way."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sent: Counter[str] = Counter()
        """Calls by verb and kind; those without effect apart."""
        self.lost: set[str] = set()
        """What never arrives, named like that."""
        self.unheard: set[str] = set()
        """What is done, and its answer never arrives."""

    async def call(self, verb: str, path: str, **options: Any) -> dict[str, Any]:
        parts = path.split("/")
        kind = parts[parts.index("namespaces") + 2]
        is_rehearsal = "dryRun" in (options.get("params") or {})
        name = f"{'DRY RUN' if is_rehearsal else verb} {kind}"
        self.sent[name] += 1
        if name in self.lost:
            raise Unreachable(0, "Unreachable", f"{name} was lost by the test")
        answer = await super().call(verb, path, **options)
        if name in self.unheard:
            raise Unreachable(0, "Unreachable", f"the answer to {name} was lost by the test")
        return answer


class Workbench:
    """Everything that a reconcile of one job needs. Make it within the event loop."""

    def __init__(self, api: CountedApi, document: Mapping[str, Any]) -> None:
        self.api = api
        self.now = START
        self.document = document
        self.metrics = Metrics()
        self.refusals = Refusals()
        self.watched = Watched(Queue())
        self.events = Events(api, instance="test", metrics=self.metrics)
        self.hands = Hands(
            api,
            take_pod=self.take_pod,
            take_membership=self.take_membership,
            refusals=self.refusals,
            bindings=TrainerBindings(api),
            rate=Rate(per_second=1000, burst=1000),
            metrics=self.metrics,
            clock=lambda: self.now,
        )
        self.reconciler = Reconciler(
            api,
            watched=self.watched,
            hands=self.hands,
            last_words=LastWords(api, watched=self.watched, take_report=self.take_report),
            refusals=self.refusals,
            events=self.events,
            metrics=self.metrics,
            clock=lambda: self.now,
        )
        self.show(document)

    @property
    def uid(self) -> str:
        return str(self.document["metadata"]["uid"])

    @property
    def target(self) -> Target:
        key = key_of(self.document)
        return Target(
            job=read_job(self.document),
            document=self.document,
            membership=self.watched.memberships.get(key),
            pod_versions=self.watched.pod_versions(key),
        )

    @property
    def key(self) -> Key:
        return key_of(self.document)

    def pod_gone(self, name: str) -> None:
        """What a watch would tell of a pod that is deleted."""
        key = Key(self.key.namespace, name)
        pod = self.watched.pods.remove(key)
        assert pod is not None
        self.watched.pod_changed(key, pod)

    def show(self, document: Mapping[str, Any]) -> None:
        """What a watch would tell of the job."""
        self.document = document
        self.watched.job_there(document)

    async def reconcile(self, *, later: float = 0.0) -> timedelta | None:
        """Once, so many seconds after the last time."""
        self.now += timedelta(seconds=later)
        return await self.reconciler.reconcile(key_of(self.document))

    def status(self) -> Mapping[str, Any]:
        """The status that was stored last."""
        document = self.watched.jobs.get(key_of(self.document)) or {}
        return document.get("status", {})

    def condition(self, kind: str) -> Mapping[str, Any]:
        found = self.status().get("conditions", ())
        return next((entry for entry in found if entry["type"] == kind), {})

    def take_pod(self, document: Mapping[str, Any]) -> None:
        pod = read_pod(document)
        if self.watched.pods.put(key_of(document), pod, version=version_of(document)):
            self.watched.pod_changed(key_of(document), pod)

    def take_report(self, document: Mapping[str, Any]) -> None:
        key, version = key_of(document), version_of(document)
        self.watched.reports.put(key, read_report(document), version=version)

    def take_membership(self, document: Mapping[str, Any]) -> None:
        membership = read_membership(document)
        self.watched.memberships.put(key_of(document), membership, version=version_of(document))
