"""The ceiling of operator_scale.py: a client that makes the operator's writes, and nothing else.

    python tests/bench/bare_client.py KUBECONFIG WRITES

It watches for jobs and makes for each what the operator wrote for one, with other names: the trial of
the pod, the statuses, the pods, the events. It keeps nothing, plans nothing and reads no answer, but
is bounded as the operator is: so many jobs at once, so many calls at once, events one by one.
`BareApi` is also how benches write much in little time.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import aiohttp

from concertina_operator.cluster.credentials import Credentials, read_credentials

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
JOBS_AT_ONCE = 16
CALLS_AT_ONCE = 32
TRIAL = {"dryRun": "All", "fieldValidation": "Strict"}


class BareApi:
    """Requests to one API server; any error ends the bench."""

    def __init__(
        self, session: aiohttp.ClientSession, credentials: Credentials, *, calls_at_once: int
    ) -> None:
        self._session = session
        self._server = credentials.server
        self._headers = credentials.headers
        self._turns = asyncio.Semaphore(calls_at_once)

    async def send(
        self,
        verb: str,
        path: str,
        body: bytes | None = None,
        *,
        content_type: str = JSON,
        **parameters: str,
    ) -> bytes:
        headers = {**self._headers, "Content-Type": content_type, "Accept": JSON}
        async with (
            self._turns,
            self._session.request(
                verb, self._server + path, data=body, params=parameters, headers=headers
            ) as answer,
        ):
            content = await answer.read()
        assert answer.status < 400, f"{verb} {path}: {answer.status} {content[:300]!r}"
        return content

    async def watch(self, path: str, **parameters: str) -> AsyncIterator[dict[str, Any]]:
        """Everything that is there and then every change, for ever.

        The server closes the watch of a client that is slow to read: then all that is there comes
        again.
        """
        asked = {**parameters, "watch": "true", "timeoutSeconds": "3600"}
        while True:
            async with self._session.get(
                self._server + path, params=asked, headers=self._headers
            ) as answer:
                async for line in answer.content:
                    yield json.loads(line)


@asynccontextmanager
async def bare_api(
    credentials: Credentials, *, calls_at_once: int = CALLS_AT_ONCE
) -> AsyncIterator[BareApi]:
    connector = aiohttp.TCPConnector(limit=0, ssl=credentials.tls())
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, read_bufsize=2**23
    ) as session:
        yield BareApi(session, credentials, calls_at_once=calls_at_once)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writes:
    """What the operator wrote for one job, as JSON texts that hold its name and its uid."""

    name: str
    uid: str
    pods: list[str]
    status: str
    """The whole of it, as a merge patch."""
    num_statuses: int
    events: list[str]

    def store(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    def of(self, text: str, *, name: str, uid: str) -> bytes:
        """The same for another job."""
        return text.replace(self.name, name).replace(self.uid, uid).encode()


class Imitation:
    """All writes for all jobs of one namespace."""

    def __init__(self, api: BareApi, *, namespace: str, writes: Writes) -> None:
        self._api = api
        self._writes = writes
        self._group = f"/apis/concertina.dev/v1alpha1/namespaces/{namespace}/adaptivetrainingjobs"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._events = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        self._told: asyncio.Queue[bytes] = asyncio.Queue()

    async def run(self) -> None:
        jobs: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        known: set[str] = set()
        async with asyncio.TaskGroup() as group:
            for _ in range(JOBS_AT_ONCE):
                group.create_task(self._work(jobs))
            group.create_task(self._tell())
            async for event in self._api.watch(self._group):
                metadata = event["object"]["metadata"]
                if event["type"] == "ADDED" and metadata["uid"] not in known:
                    known.add(metadata["uid"])
                    jobs.put_nowait((metadata["name"], metadata["uid"]))

    async def _work(self, jobs: asyncio.Queue[tuple[str, str]]) -> None:
        while True:
            await self._serve(*await jobs.get())

    async def _serve(self, name: str, uid: str) -> None:
        writes = self._writes
        pods = [writes.of(text, name=name, uid=uid) for text in writes.pods]
        status = writes.of(writes.status, name=name, uid=uid)
        await self._api.send("POST", self._pods, pods[0], **TRIAL)
        await self._patch(name, status)
        await asyncio.gather(*(self._api.send("POST", self._pods, pod) for pod in pods))
        for _ in range(writes.num_statuses - 1):
            await self._patch(name, status)
        for text in writes.events:
            self._told.put_nowait(writes.of(text, name=name, uid=uid))

    async def _patch(self, name: str, status: bytes) -> None:
        path = f"{self._group}/{name}/status"
        await self._api.send("PATCH", path, status, content_type=MERGE_PATCH)

    async def _tell(self) -> None:
        while True:
            await self._api.send("POST", self._events, await self._told.get())


async def post_all(api: BareApi, path: str, documents: Iterable[dict[str, Any]]) -> None:
    """Create all of them in the collection, many at once."""
    bodies = [json.dumps(document).encode() for document in documents]
    await asyncio.gather(*(api.send("POST", path, body) for body in bodies))


async def imitate(writes: Writes, credentials: Credentials) -> None:
    """Serves all jobs, those to come included, until it is killed."""
    namespace = json.loads(writes.pods[0])["metadata"]["namespace"]
    async with bare_api(credentials) as api:
        await Imitation(api, namespace=namespace, writes=writes).run()


def main(kubeconfig: str, writes: str) -> None:
    os.environ["CONCERTINA_KUBECONFIG"] = kubeconfig
    recorded = Writes(**json.loads(Path(writes).read_text()))
    asyncio.run(imitate(recorded, read_credentials()))


if __name__ == "__main__":
    main(*sys.argv[1:])
