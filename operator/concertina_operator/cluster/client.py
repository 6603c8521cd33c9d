"""A thin client of the Kubernetes API: `Api.call` for one request, `Api.watch` for a stream.

Everything that the operator says to the API server goes through here. A full client costs three
times the CPU and brings nothing that is needed. What it raises is in
errors.py.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final, Self

import aiohttp

from concertina_operator.cluster.credentials import Credentials, read_credentials
from concertina_operator.cluster.errors import (
    Deposed,
    Gone,
    Unreachable,
    error_of,
)

MERGE_PATCH: Final = "application/merge-patch+json"
PATIENCE_SECONDS: Final = 30.0
"""How long one request may take."""
WATCH_SECONDS: Final = 25
"""How long a watch lasts before the server ends it; a stream that is silent longer is dead.

Shorter than load balancers let a connection idle.
"""

_JSON: Final = "application/json"
_ATTEMPTS: Final = 5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_MAX_CALLS: Final = 64
_MAX_LINE_BYTES: Final = 8 * 1024 * 1024

_log = logging.getLogger(__name__)

Observer = Callable[[str, int], None]
"""Told verb and status of each answer (0: none came)."""


class Api:
    """Calls to one API server. Use it as a context; it belongs to one event loop."""

    def __init__(
        self,
        *,
        credentials: Callable[[], Credentials] = read_credentials,
        may_write: Callable[[], bool] = lambda: True,
        on_answer: Observer = lambda *_: None,
    ) -> None:
        """`may_write` is asked right before each request that is not a read."""
        self._read_credentials = credentials
        self._may_write = may_write
        self._on_answer = on_answer
        self._session: aiohttp.ClientSession | None = None
        self._credentials: Credentials | None = None
        self._calls = asyncio.Semaphore(_MAX_CALLS)
        self.succeeded_at = time.monotonic()
        """When the server last did what a call asked, in seconds of time.monotonic()."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        verb: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        content_type: str = _JSON,
    ) -> dict[str, Any]:
        """The answer to one request.

        Waits as long as a 429 says, a few times; reads the token anew after a 401. Raises ApiError.
        """
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        has_new_token = False
        for attempt in range(_ATTEMPTS):
            async with self._calls:
                status, content, pause = await self._ask(verb, path, data, params, content_type)
            if status == 401 and not has_new_token:
                self._credentials, has_new_token = None, True
            elif status == 429 and attempt + 1 < _ATTEMPTS:
                await asyncio.sleep(pause)
            else:
                break
        if status >= 400:
            raise error_of(status, content)
        answer: dict[str, Any] = json.loads(content) if content else {}
        return answer

    async def pages(
        self, path: str, *, size: int, params: Mapping[str, str] | None = None
    ) -> AsyncGenerator[dict[str, Any]]:
        """A list as it is at one moment, in answers of at most `size` objects. Raises ApiError."""
        asked = {**(params or {}), "limit": str(size)}
        while True:
            page = await self.call("GET", path, params=asked)
            yield page
            if not (following := page["metadata"].get("continue")):
                return
            asked["continue"] = following

    async def watch(
        self, path: str, *, params: Mapping[str, str]
    ) -> AsyncGenerator[dict[str, Any]]:
        """Events of a watch, bookmarks included, until the server ends it. Raises ApiError.

        The stream counts as dead when nothing comes for longer than the server keeps it open. A
        server that is too busy is given the time that it asks for before Throttled is raised.
        """
        asked = {
            **params,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=WATCH_SECONDS + 5)
        try:
            session, credentials = await self._connected()
            async with session.get(
                credentials.server + path,
                params=asked,
                headers=credentials.headers,
                timeout=timeout,
            ) as response:
                self._on_answer("WATCH", response.status)
                if response.status == 401:
                    self._credentials = None
                if response.status >= 400:
                    content = await response.read()
                    if response.status == 429:
                        await asyncio.sleep(_pause(response.headers.get("Retry-After")))
                    raise error_of(response.status, content)
                async for line in response.content:
                    yield _event(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unreachable(0, "Unreachable", f"WATCH {path}: {error!r}") from error

    async def _ask(
        self,
        verb: str,
        path: str,
        data: bytes | None,
        params: Mapping[str, str] | None,
        content_type: str,
    ) -> tuple[int, bytes, float]:
        """Status, content, and the seconds to wait before trying again."""
        try:
            session, credentials = await self._connected()
            # Not before: a turn and a token may have been long in coming.
            if verb != "GET" and not self._may_write():
                raise Deposed(0, "Deposed", f"{verb} {path} not sent: this process leads no more")
            async with session.request(
                verb,
                credentials.server + path,
                params=params,
                data=data,
                headers={**credentials.headers, "Content-Type": content_type, "Accept": _JSON},
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._on_answer(verb, 0)
            raise Unreachable(0, "Unreachable", f"{verb} {path}: {error!r}") from error
        if response.status < 300:
            self.succeeded_at = time.monotonic()
        self._on_answer(verb, response.status)
        return response.status, content, _pause(response.headers.get("Retry-After"))

    async def _connected(self) -> tuple[aiohttp.ClientSession, Credentials]:
        if self._credentials is None:
            # An exec plugin may take seconds.
            self._credentials = await asyncio.to_thread(self._read_credentials)
        if self._session is None:
            self._session = self._session_to(self._credentials)
        return self._session, self._credentials

    def _session_to(self, credentials: Credentials) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # Watches hold a connection each; calls are bounded by the semaphore, not by the pool,
            # so that waiting for a turn is not counted as waiting for the server.
            connector=aiohttp.TCPConnector(limit=0, ssl=credentials.tls()),
            timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS, sock_connect=5),
            headers={"User-Agent": "concertina-operator"},
            read_bufsize=_MAX_LINE_BYTES,
        )


def _event(line: bytes) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(line)
    if event["type"] == "ERROR":
        failure = event["object"]
        raise Gone(failure.get("code", 0), failure.get("reason", ""), failure.get("message", ""))
    return event


def _pause(retry_after: str | None) -> float:
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else 1.0
    return min(max(seconds, 0.1), _LONGEST_PAUSE_SECONDS)
