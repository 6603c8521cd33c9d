"""Imitates the trainers of many jobs at once: what their pods would report, as fast as it is taken.

Used by operator_scale.py. What the pods of one job do in which order is that of the agent: each says
that it is warm, joins the round that names it, and the leader tells of its progress now and then.
"""

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.bench.bare_client import MERGE_PATCH, BareApi
from tests.bench.fleet import LOOK_SECONDS, NAMESPACE, PODS
from tests.concertina_operator.cluster.installed import GROUP, a_report

REPORTS = f"{GROUP}/namespaces/{NAMESPACE}/trainingreports"
MEMBERSHIPS = f"{GROUP}/namespaces/{NAMESPACE}/trainingmemberships"
PROGRESS_SECONDS = 30.0
"""How often a leader tells of its progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod that trains."""

    name: str
    job: str
    uid: str
    host: str
    """Its address; empty before it has one."""

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "Pod":
        metadata = document["metadata"]
        return cls(
            name=metadata["name"],
            job=metadata["ownerReferences"][0]["name"],
            uid=metadata["uid"],
            host=document["status"].get("podIP", ""),
        )


class Crews:
    """The pods of all jobs whose pods carry a label."""

    def __init__(self, api: BareApi, *, label: str) -> None:
        self._api = api
        self._label = label
        self._told_at: defaultdict[str, float] = defaultdict(float)
        self._rounds: dict[str, int] = {}
        self.round_seconds: list[float] = []
        """From a job's last report of warmth to the round that names its pods, for each job."""
        self.num_reports = 0
        """Reports of progress."""

    async def join(self) -> None:
        """Every pod that is there gets warm and into its job's first round."""
        pods = await self._pods()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow({pod.job for pod in pods}))
            for pod in pods:
                group.create_task(self._warm(pod))

    async def progress(self) -> None:
        """Leaders tell of their progress for ever, each at its own moment."""
        await asyncio.gather(*(self._tell(job) for job in self._rounds))

    async def grow(self, *, samples: int) -> list[float]:
        """Each leader in turn asks for a batch that needs another pod, after a little pause.

        Seconds from the report until a watch shows the pod.
        """
        last = {f"{job}-1": asyncio.Event() for job in self._rounds}

        async def look() -> None:
            async for event in self._api.watch(PODS, labelSelector=f"bench={self._label}"):
                if (name := event["object"]["metadata"]["name"]) in last:
                    last[name].set()

        looking = asyncio.create_task(look())
        request = {"sequence": 1, "requested": samples, "effective": samples, "reason": "bench"}
        found, pauses = [], random.Random(0)
        for job in sorted(self._rounds):
            await asyncio.sleep(pauses.uniform(0.1, 0.3))
            started = time.monotonic()
            await self._report(f"{job}-0", {"request": request})
            await last[f"{job}-1"].wait()
            found.append(time.monotonic() - started)
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        return found

    async def _pods(self) -> list[Pod]:
        """All pods, once they run."""
        while True:
            pods = [Pod.read(item) async for item in self._listed()]
            if all(pod.host for pod in pods):
                return pods
            await asyncio.sleep(LOOK_SECONDS)

    async def _listed(self) -> AsyncIterator[dict[str, Any]]:
        parameters = {"labelSelector": f"bench={self._label}", "limit": "500"}
        while True:
            page = json.loads(await self._api.send("GET", PODS, **parameters))
            for item in page["items"]:
                yield item
            if not (following := page["metadata"].get("continue")):
                return
            parameters["continue"] = following

    async def _warm(self, pod: Pod) -> None:
        report = a_report(pod.name, uid=pod.uid, phase="Warm", host=pod.host, port=29500)
        await self._api.send("POST", REPORTS, json.dumps(report).encode())
        self._told_at[pod.job] = time.monotonic()

    async def _follow(self, jobs: set[str]) -> None:
        """Joins the first round of each of the jobs."""
        joining: list[asyncio.Task[None]] = []
        async for event in self._api.watch(MEMBERSHIPS):
            job, membership = event["object"]["metadata"]["name"], event["object"]["spec"]
            if job in jobs and job not in self._rounds and membership.get("members"):
                self.round_seconds.append(time.monotonic() - self._told_at[job])
                self._rounds[job] = membership["round"]
                joining.append(asyncio.create_task(self._train(membership)))
            if len(self._rounds) == len(jobs):
                break
        await asyncio.gather(*joining)

    async def _train(self, membership: dict[str, Any]) -> None:
        number, members = membership["round"], membership["members"]
        resize = {"round": number, "worldSizeBefore": 0, "worldSize": len(members), "step": 0}
        acknowledged = {"acknowledged": resize | {"pauseSeconds": 0.1}}
        trains = {"phase": "Training", "round": number}
        await asyncio.gather(
            *(
                self._report(member["pod"], trains | (acknowledged if rank == 0 else {}))
                for rank, member in enumerate(members)
            )
        )

    async def _tell(self, job: str) -> None:
        step = 0
        await asyncio.sleep(random.Random(job).random() * PROGRESS_SECONDS)
        while True:
            step += 100
            progress = {"step": step, "samples": 32 * step, "round": self._rounds[job], "loss": 2.0}
            await self._report(f"{job}-0", {"progress": progress})
            self.num_reports += 1
            await asyncio.sleep(PROGRESS_SECONDS)

    async def _report(self, pod: str, spec: dict[str, Any]) -> None:
        body = json.dumps({"spec": spec}).encode()
        await self._api.send("PATCH", f"{REPORTS}/{pod}", body, content_type=MERGE_PATCH)
