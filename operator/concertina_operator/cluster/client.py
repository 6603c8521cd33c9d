"""A thin client of the Kubernetes API: `Api.call` for one request, `Api.watch` for a stream.

Everything that the operator says to the API server goes through here. A full client costs three
times the CPU and brings nothing that is needed. ApiError and its children tell callers what they
can do:

ApiError
|-- Unreachable   no answer; try again
|-- NotFound      the object is not there
|-- Conflict      it exists already, or it has changed since it was read
|-- Gone          a watch cannot go on from there; list again
|-- Refused       the server will not have it: rights, quota, admission (a webhook that does not
|                 answer, too), or an invalid object
|-- Throttled     the server asked to wait several times in a row; try again later
`-- Deposed       we are no longer the leader and may write nothing
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final, Self

import aiohttp

from concertina_api.errors import ConcertinaError
from concertina_operator.cluster.credentials import Credentials, read_credentials

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


class ApiError(ConcertinaError):
    """The API server refused a request, or could not be asked."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Unreachable(ApiError):
    """No answer came."""


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409; `reason` AlreadyExists tells a taken name from a changed object."""


class Gone(ApiError):
    """410: the history is no longer kept; or whatever else a watch tells as its own end."""


class Refused(ApiError):
    """400, 403, 422 or 500, in the server's words."""


class Throttled(ApiError):
    """429, several times in a row."""


class Deposed(ApiError):
    """Nothing was sent: only the leader writes."""


_KINDS: Final[Mapping[int, type[ApiError]]] = {
    400: Refused,
    403: Refused,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Refused,
    429: Throttled,
    500: Refused,
}


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
            raise _error(status, content)
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
                    raise _error(response.status, content)
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


def _error(status: int, content: bytes) -> ApiError:
    try:
        told = json.loads(content)
        reason, message = str(told.get("reason", "")), str(told.get("message", ""))
    except (ValueError, AttributeError):
        reason, message = "", content[:200].decode(errors="replace")
    return _KINDS.get(status, ApiError)(status, reason, message)


def _pause(retry_after: str | None) -> float:
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else 1.0
    return min(max(seconds, 0.1), _LONGEST_PAUSE_SECONDS)
