"""Follows the jobs themselves: kopf watches them, and a list now and then finds what it missed.

Started by shell.py. kopf runs in a thread and a loop of its own, because it takes over signals and
in the end cancels all tasks of its loop, whoever started them. Its one handler hands events over;
none of kopf's state is ever written to a job: no finalizer, no annotation, no event.
"""

import asyncio
import logging
import random
import threading
from collections.abc import Mapping
from typing import Any, Final

import kopf

from concertina_operator.cluster import paths
from concertina_operator.cluster.client import Api, ApiError
from concertina_operator.cluster.credentials import read_credentials
from concertina_operator.cluster.observe import Watched
from concertina_operator.cluster.reflector import PAGE
from concertina_operator.cluster.store import Key, key_of

RESYNC_SECONDS: Final = 600.0

_log = logging.getLogger(__name__)


async def list_jobs(api: Api, watched: Watched, *, namespace: str | None) -> None:
    """Takes all jobs that are there and drops those that are not. Raises ApiError."""
    listed: set[Key] = set()
    before = set(watched.jobs.all_keys())
    params = {"limit": str(PAGE)}
    while True:
        page = await api.call("GET", paths.jobs(namespace), params=params)
        for document in page["items"]:
            watched.job_there(document)
            listed.add(key_of(document))
        if not (following := page["metadata"].get("continue")):
            break
        params["continue"] = following
    for key in before - listed:
        watched.job_gone(key)


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


async def watch_jobs(watched: Watched, *, namespace: str | None) -> None:
    """Runs kopf until cancelled. Raises what ends kopf."""
    loop, stop = asyncio.get_running_loop(), threading.Event()

    def take(kind: str | None, document: Mapping[str, Any]) -> None:
        loop.call_soon_threadsafe(watched.job_event, kind, document)

    thread = asyncio.create_task(asyncio.to_thread(_run_kopf, take, namespace, stop))
    try:
        await asyncio.shield(thread)
    finally:
        stop.set()
    raise RuntimeError("kopf ended without being told to")


def _run_kopf(take: Any, namespace: str | None, stop: threading.Event) -> None:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return _connection()

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
    settings.watching.server_timeout = 50
    settings.watching.inactivity_timeout = 55
    settings.watching.connect_timeout = 5
    settings.watching.chunk_size = PAGE
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    # Many short naps: an API server that is back is noticed soon.
    settings.networking.error_backoffs = (1, 1, 2, 3, *[5] * 60)
    # It would kill the process, which ends by its own rules.
    settings.process.ultimate_exiting_timeout = None
    return settings


def _connection() -> kopf.ConnectionInfo:
    credentials = read_credentials()
    scheme, _, token = (credentials.authorization or "").partition(" ")
    return kopf.ConnectionInfo(
        server=credentials.server,
        ca_path=credentials.ca_path,
        insecure=credentials.insecure or None,
        scheme=scheme or None,
        token=token or None,
        certificate_path=credentials.certificate_path,
        private_key_path=credentials.key_path,
        default_namespace=credentials.namespace,
    )
