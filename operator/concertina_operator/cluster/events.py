"""Posts what was decided and refused as events of the job, each once in a while.

Called by the reconcile. The name of an event is a hash of what it says and of the ten minutes in
which it is said, so a repetition is a name that exists: by this process, by the leader before it,
or by another one. Nothing waits for events. A job that has too many of them, and an API server that
is away for long, lose some; they are counted.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from concertina_operator.actions import Event
from concertina_operator.cluster import paths
from concertina_operator.cluster.buckets import Buckets
from concertina_operator.cluster.client import Api
from concertina_operator.cluster.errors import ApiError, Conflict, Throttled, Unreachable
from concertina_operator.cluster.logs import of_job
from concertina_operator.cluster.metrics import Metrics
from concertina_operator.cluster.store import Key, key_of

REPORTER: Final = "concertina.dev/operator"
WINDOW_SECONDS: Final = 600
BURST: Final = 50
"""Events of one job that are told at once; after that one in SECONDS_PER_EVENT."""
SECONDS_PER_EVENT: Final = 5.0
_LONGEST_NOTE: Final = 1024
"""Bytes that the API server takes."""
_PAUSES_SECONDS: Final = (1.0, 5.0, 15.0, 30.0, 60.0)
_REMEMBERED: Final = 10_000
_MAX_WAITING: Final = 10_000

_log = logging.getLogger(__name__)


class Events:
    """Events on their way to the API server."""

    def __init__(self, api: Api, *, instance: str, metrics: Metrics) -> None:
        """`instance` names this process in the events."""
        self._api = api
        self._instance = instance
        self._metrics = metrics
        self._buckets: Buckets[str] = Buckets(burst=BURST, seconds_per_token=SECONDS_PER_EVENT)
        self._posted: OrderedDict[str, None] = OrderedDict()
        self._waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_MAX_WAITING)

    def tell(
        self, job: Mapping[str, Any], events: Iterable[Event], *, now: datetime
    ) -> tuple[Event, ...]:
        """Posts the events soon, unless they were posted before; those that are new."""
        uid, news = job["metadata"]["uid"], []
        for event in events:
            document = event_document(job, event, instance=self._instance, now=now)
            name = f"{job['metadata']['namespace']}/{document['metadata']['name']}"
            if name in self._posted:
                continue
            if self._waiting.full() or self._buckets.take(uid, now=now.timestamp()):
                self._metrics.events_lost.inc()
                continue
            self._posted[name] = None
            if len(self._posted) > _REMEMBERED:
                self._posted.popitem(last=False)
            self._waiting.put_nowait(document)
            news.append(event)
        return tuple(news)

    async def run(self) -> None:
        """Posts for ever."""
        while True:
            document = await self._waiting.get()
            try:
                await self._post(document)
            except Conflict:
                pass  # somebody has said so already
            except ApiError as error:
                self._metrics.events_lost.inc()
                about = document["regarding"]
                job = Key(about["namespace"], about["name"])
                with of_job(job):
                    _log.info("%s: event %s is lost: %s", job, document["reason"], error)
            finally:
                self._waiting.task_done()

    async def flush(self) -> None:
        """Waits until everything is posted."""
        await self._waiting.join()

    async def _post(self, document: Mapping[str, Any]) -> None:
        """Posts one; while the server is away or too busy, the others would fare no better."""
        path = paths.events(document["metadata"]["namespace"])
        for pause in _PAUSES_SECONDS:
            try:
                await self._api.call("POST", path, body=document)
            except (Unreachable, Throttled):
                await asyncio.sleep(pause)
            else:
                return
        await self._api.call("POST", path, body=document)


def event_document(
    job: Mapping[str, Any], event: Event, *, instance: str, now: datetime
) -> dict[str, Any]:
    """The API object of an event."""
    key, uid = key_of(job), job["metadata"]["uid"]
    note = _note(event)
    window = int(now.timestamp()) // WINDOW_SECONDS
    said = "\0".join((uid, event.type, event.reason, note, str(window)))
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{key.name}.{digest}", "namespace": key.namespace},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": REPORTER,
        "reportingInstance": instance[:128],
        "action": "Plan",
        "type": event.type.value,
        "reason": event.reason,
        "note": note,
        "regarding": {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "namespace": key.namespace,
            "name": key.name,
            "uid": uid,
        },
    }


def _note(event: Event) -> str:
    """The message, and below it as much of the end of the detail as there is room for."""
    message = event.message.encode()[:_LONGEST_NOTE]
    room = _LONGEST_NOTE - len(message) - 1
    detail = event.detail.encode()[-room:] if room > 0 else b""
    return b"\n".join(part for part in (message, detail) if part).decode(errors="ignore")
