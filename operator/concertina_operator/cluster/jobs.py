"""Follows the jobs themselves: kopf watches them, and a list now and then finds what it missed.

Started by shell.py. kopf runs in a thread and a loop of its own, because it takes over signals and
in the end cancels all tasks of its loop, whoever started them. Its one handler hands events over;
none of kopf's state is ever written to a job: no finalizer, no annotation, no event.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp
import kopf

from concertina_operator.cluster import paths
from concertina_operator.cluster.client import WATCH_SECONDS, Api
from concertina_operator.cluster.credentials import Credentials, read_credentials
from concertina_operator.cluster.errors import ApiError
from concertina_operator.cluster.observe import Watched
from concertina_operator.cluster.reflector import PAGE, SHORTEST_WATCH_SECONDS
from concertina_operator.cluster.store import Key, key_of, version_of

RESYNC_SECONDS: Final = 600.0
_RETRY_SECONDS: Final = 0.5

_log = logging.getLogger(__name__)


async def list_jobs(api: Api, watched: Watched, *, namespace: str | None) -> None:
    """Takes all jobs that are there and drops those that are not. Raises ApiError."""
    listed: set[Key] = set()
    version, known = 0, watched.jobs.newest
    async for page in api.pages(paths.jobs(namespace), size=PAGE):
        version = version_of(page)
        if version < known:
            _log.warning("jobs: version %d < %d: a restored state", version, known)
            watched.jobs.begin_anew()
            known = 0
        for document in page["items"]:
            watched.job_there(document)
            listed.add(key_of(document))
    watched.jobs_listed(listed, version=version)


async def resync_jobs(api: Api, watched: Watched, *, namespace: str | None) -> None:
    """Lists the jobs for ever: kopf never tells of one that was deleted while it was cut off."""
    while True:
        await asyncio.sleep(RESYNC_SECONDS * (0.9 + 0.2 * random.random()))
        try:
            await list_jobs(api, watched, namespace=namespace)
        except ApiError as error:
            _log.warning("jobs cannot be listed: %s", error)
        for key in watched.jobs.all_keys():
            watched.queue.add(key)


class JobWatch:
    """kopf's watch of the jobs."""

    def __init__(self, api: Api, watched: Watched, *, namespace: str | None) -> None:
        """`namespace` None watches all of them."""
        self._api = api
        self._watched = watched
        self._namespace = namespace
        self.heard_at = float("inf")
        """When the server last said anything here, in seconds of time.monotonic()."""

    async def run(self) -> None:
        """Runs kopf until cancelled. Raises what ends kopf."""
        loop, stop = asyncio.get_running_loop(), threading.Event()

        def take(kind: str | None, document: Mapping[str, Any]) -> None:
            self._hear()
            loop.call_soon_threadsafe(self._watched.job_event, kind, document)

        await _until_announced(self._api)
        self._hear()
        thread = asyncio.create_task(
            asyncio.to_thread(_run_kopf, take, self._hear, self._namespace, stop)
        )
        try:
            await asyncio.shield(thread)
        finally:
            stop.set()
        raise RuntimeError("kopf ended without being told to")

    def _hear(self) -> None:
        self.heard_at = time.monotonic()


async def _until_announced(api: Api) -> None:
    """Waits until the server tells of the jobs' resource: it serves a new one before that.

    kopf asks only once what there is, and would watch nothing for ever.
    """
    while True:
        try:
            groups = await api.call("GET", "/apis")
            version = await api.call("GET", f"/apis/{paths.GROUP}/{paths.VERSION}")
        except ApiError as error:
            _log.warning("the server does not tell what it serves: %s", error)
        else:
            is_group_told = any(group["name"] == paths.GROUP for group in groups["groups"])
            if is_group_told and any(kind["name"] == paths.JOBS for kind in version["resources"]):
                return
        await asyncio.sleep(_RETRY_SECONDS)


def _run_kopf(
    take: Callable[[str | None, Mapping[str, Any]], None],
    hear: Callable[[], None],
    namespace: str | None,
    stop: threading.Event,
) -> None:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        return _session(await asyncio.to_thread(read_credentials), hear)

    @kopf.on.event(paths.GROUP, paths.VERSION, paths.JOBS, registry=registry)
    async def changed(event: Any, **_: Any) -> None:
        take(event["type"], event["object"])

    asyncio.run(
        kopf.operator(
            registry=registry,
            settings=_settings(),
            standalone=True,
            clusterwide=namespace is None,
            namespaces=[namespace] if namespace is not None else [],
            stop_flag=stop,
        )
    )


class _NoMemory(kopf.DiffBaseStorage):
    """Nothing is compared with what was handled last, so kopf need not copy each job to do so."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        return


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = _NoMemory()
    settings.posting.enabled = False
    settings.peering.standalone = True
    # Else a Role alone keeps kopf from starting for most of a minute.
    settings.scanning.disabled = True
    # A healthy stream is ended by the server before a silent one is given up. It must be an int.
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.inactivity_timeout = WATCH_SECONDS + 5
    settings.watching.connect_timeout = 5
    settings.watching.chunk_size = PAGE
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    # Many short naps: an API server that is back is noticed soon.
    settings.networking.error_backoffs = (1, 1, 2, 3, *[5] * 60)
    # It would kill the process, which ends by its own rules.
    settings.process.ultimate_exiting_timeout = None
    return settings


def _session(credentials: Credentials, hear: Callable[[], None]) -> kopf.AiohttpSession:
    """Connections for kopf, which closes them in the end."""
    return kopf.AiohttpSession(
        server=credentials.server,
        default_namespace=credentials.namespace,
        aiohttp_session=aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=credentials.tls()),
            headers=credentials.headers,
            trace_configs=[_listening(hear)],
        ),
    )


def _listening(hear: Callable[[], None]) -> aiohttp.TraceConfig:
    """Tells of each watch that the server brings to its end, and lets none follow at once.

    kopf says nothing of a watch on which there is nothing to say, and does not pause after one
    that was cut off.
    """
    began = float("-inf")

    def ended() -> None:
        if time.monotonic() - began >= SHORTEST_WATCH_SECONDS:
            hear()

    async def before(_: Any, __: Any, asked: aiohttp.TraceRequestStartParams) -> None:
        nonlocal began
        if "watch" in asked.url.query:
            await asyncio.sleep(began + SHORTEST_WATCH_SECONDS - time.monotonic())
            began = time.monotonic()

    async def answered(_: Any, __: Any, answer: aiohttp.TraceRequestEndParams) -> None:
        if "watch" in answer.url.query and answer.response.ok:
            answer.response.content.on_eof(ended)

    config = aiohttp.TraceConfig()
    config.on_request_start.append(before)
    config.on_request_end.append(answered)
    return config
