"""What the operator has seen of all jobs, and which job each change concerns.

The reflectors (pods, memberships, reports, nodes) and kopf (jobs) put in what they hear; each change
only puts the key of its job into the queue. `observe` gives the facts of one job to the reconcile.
Programs of users write reports, as often as they like: they wake their job only so often.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from concertina_api.v1alpha1 import AdaptiveTrainingJob
from concertina_operator.cluster.buckets import Buckets
from concertina_operator.cluster.facts import HeardReport, StoredMembership, observed
from concertina_operator.cluster.first_seen import FirstSeen
from concertina_operator.cluster.pod_facts import OwnedPod
from concertina_operator.cluster.queue import Queue
from concertina_operator.cluster.refusals import Refusal
from concertina_operator.cluster.store import Key, Store, key_of, version_of
from concertina_operator.observed import Observed

DELETED: Final = "DELETED"
REPORTS_BURST: Final = 100
"""Reports of one job that wake it at once; after that one in SECONDS_PER_REPORT."""
SECONDS_PER_REPORT: Final = 0.2


class Watched:
    """Everything that is known, by kind."""

    def __init__(self, queue: Queue[Key]) -> None:
        self.jobs: Store[Mapping[str, Any]] = Store()
        self.pods: Store[OwnedPod] = Store()
        self.memberships: Store[StoredMembership] = Store()
        self.reports: Store[HeardReport] = Store()
        self.nodes: Store[tuple[str, ...]] = Store()
        """By which taints a node says that it is about to be taken away; none, for most."""
        self.queue = queue
        self._pods_of: defaultdict[Key, set[Key]] = defaultdict(set)
        self._jobs_seen, self._pods_seen = FirstSeen(), FirstSeen()
        self._notices: dict[str, tuple[str, ...]] = {}
        """The nodes that say so, by name."""
        self._heard_at: dict[Key, float] = {}
        """When a report was last heard, by pod, in seconds of the event loop."""
        self._buckets: Buckets[Key] = Buckets(
            burst=REPORTS_BURST, seconds_per_token=SECONDS_PER_REPORT
        )

    def observe(
        self, job: AdaptiveTrainingJob, *, refused: Iterable[Refusal], now: datetime
    ) -> Observed:
        """The facts of one job at a moment; pods that the server refused are Pending."""
        key = Key(job.metadata.namespace, job.metadata.name)
        names = self._pods_of.get(key, set())
        pods = [
            self._dated(name, pod, now=now)
            for name in names
            if (pod := self.pods.get(name)) is not None
        ]
        there = {pod.facts.name for pod in pods if pod.owner == job.metadata.uid}
        imagined = [
            OwnedPod(job=key, owner=job.metadata.uid, facts=refusal.as_pod())
            for refusal in refused
            if refusal.name not in there
        ]
        found = observed(
            job,
            membership=self.memberships.get(key),
            pods=[*pods, *imagined],
            reports=self.reports_of(key, job_uid=job.metadata.uid),
            notices=self._notices,
        )
        uid = job.metadata.uid or job.metadata.name
        return replace(found, known_since=self._jobs_seen.at(key, uid=uid, now=now))

    def pod_versions(self, job: Key) -> dict[str, int]:
        """resourceVersions of a job's pods, by uid."""
        return {
            pod.facts.uid: version
            for name in self._pods_of.get(job, ())
            if (pod := self.pods.get(name)) and (version := self.pods.version(name)) is not None
        }

    def pods_of(self, job: Key, *, job_uid: str) -> Mapping[Key, OwnedPod]:
        """A job's own pods, in the order of their names."""
        found = ((name, self.pods.get(name)) for name in sorted(self._pods_of.get(job, ())))
        return {name: pod for name, pod in found if pod is not None and pod.owner == job_uid}

    def reports_of(self, job: Key, *, job_uid: str) -> tuple[HeardReport, ...]:
        """What was heard of a job's own pods: a report is named after its pod."""
        own = self.pods_of(job, job_uid=job_uid)
        return tuple(heard for name in own if (heard := self.reports.get(name)) is not None)

    def heard_at(self, job: Key, *, job_uid: str) -> float | None:
        """When any of a job's own pods last reported, in seconds of the event loop."""
        own = self.pods_of(job, job_uid=job_uid)
        return max((self._heard_at[name] for name in own if name in self._heard_at), default=None)

    def job_event(self, kind: str | None, document: Mapping[str, Any]) -> None:
        """Takes what a watch of the jobs tells; what changes only the status queues nothing."""
        if kind == DELETED:
            self.job_gone(key_of(document))
        else:
            self.job_there(document)

    def job_there(self, document: Mapping[str, Any]) -> None:
        """Takes a job from a list or a watch."""
        key = key_of(document)
        last = self.jobs.get(key)
        is_news = self.jobs.put(key, document, version=version_of(document))
        if is_news and (last is None or _asked(last) != _asked(document)):
            self.queue.add(key)

    def jobs_listed(self, keys: Iterable[Key], *, version: int) -> None:
        """These are all jobs that there were at `version`."""
        for key, _ in self.jobs.remove_unlisted(keys, version=version):
            self._jobs_seen.forget(key)
            self.queue.add(key)

    def job_answer(self, document: Mapping[str, Any]) -> None:
        """Takes a job from the answer to an own call, unless it was deleted meanwhile."""
        key = key_of(document)
        if self.jobs.get(key) is not None:
            self.jobs.put(key, document, version=version_of(document))

    def job_gone(self, key: Key) -> None:
        """The job is deleted."""
        if self.jobs.remove(key) is not None:
            self._jobs_seen.forget(key)
            self.queue.add(key)

    def pod_changed(self, key: Key, pod: OwnedPod) -> None:
        """Told by the reflector."""
        if self.pods.get(key) is None:
            self._pods_seen.forget(key)
            names = self._pods_of[pod.job]
            names.discard(key)
            if not names:
                del self._pods_of[pod.job]
        else:
            self._pods_of[pod.job].add(key)
        self.queue.add(pod.job)

    def node_changed(self, key: Key, _: tuple[str, ...]) -> None:
        """Told by the reflector; of most nodes there is nothing to say."""
        said, says = self._notices.pop(key.name, ()), self.nodes.get(key) or ()
        if says:
            self._notices[key.name] = says
        if says == said:
            return
        pods = (self.pods.get(name) for name in self.pods.all_keys())
        for job in {pod.job for pod in pods if pod is not None and pod.facts.node == key.name}:
            self.queue.add(job)

    def membership_changed(self, key: Key, _: StoredMembership) -> None:
        """Told by the reflector; a membership is named like its job."""
        self.queue.add(key)

    def report_changed(self, key: Key, _: HeardReport) -> None:
        """Told by the reflector; a report is named like its pod."""
        now = asyncio.get_running_loop().time()
        if self.reports.get(key) is None:
            self._heard_at.pop(key, None)
        else:
            self._heard_at[key] = now
        pod = self.pods.get(key)
        if pod is None:
            return
        wait = self._buckets.take(pod.job, now=now)
        if wait:
            self.queue.add_after(pod.job, wait)
        else:
            self.queue.add(pod.job)

    def _dated(self, key: Key, pod: OwnedPod, *, now: datetime) -> OwnedPod:
        seen = self._pods_seen.at(key, uid=pod.facts.uid, now=now)
        return replace(pod, facts=replace(pod.facts, seen=seen))


def _asked(document: Mapping[str, Any]) -> tuple[Any, ...]:
    """What is asked of a job: everything but its status."""
    metadata = document["metadata"]
    return metadata["uid"], metadata.get("generation"), metadata.get("deletionTimestamp")
