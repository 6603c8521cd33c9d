"""Talks to the Kubernetes API server: one request at a time, or a watch that stays open.

Used by membership_watch.py and report_object.py, each in a thread of its own. A pod watches one
object and writes another, so this is all it needs of Kubernetes. Nothing is tried again here:
whatever goes wrong is an ApiError, and retry.py says how long to wait after it.
"""

import contextlib
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from concertina_api.errors import ConcertinaError

GROUP_PATH = "/apis/concertina.dev/v1alpha1"
MERGE_PATCH = "application/merge-patch+json"
REQUEST_SECONDS = 10.0
_MAX_BYTES = 8 * 2**20
"""etcd stores no object of more than 1.5 MiB."""
_KEEP_ALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""A peer that vanished is noticed by the kernel after 50 s, at no cost for the server."""


class ApiError(ConcertinaError):
    """The API server did not do what was asked, or nothing is known of it."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        name: str = "",
        retry_after_seconds: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0 when there was no answer."""
        self.reason = reason
        """Reason of the answer's Status object, such as NotFound."""
        self.name = name
        """Name of the object that the Status is about."""
        self.retry_after_seconds = retry_after_seconds
        """How long the server wants to be left alone."""

    def says_missing(self, name: str) -> bool:
        """Whether the object `name` does not exist; a path that is not served says no such thing."""
        return self.status == 404 and self.reason == "NotFound" and self.name == name


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where the API server is, and as whom a pod speaks to it."""

    host: str
    port: int
    namespace: str
    """Namespace of the pod and of all objects that it reads and writes."""
    credentials: Path
    """Folder with `token`, which the kubelet replaces every hour, and `ca.crt`."""


class ApiServer:
    """Requests in the namespace of a pod."""

    def __init__(self, access: Access, *, request_seconds: float = REQUEST_SECONDS) -> None:
        self._access = access
        self._request_seconds = request_seconds

    def path(self, plural: str, name: str = "") -> str:
        """Path of the objects of a kind, or of one of them."""
        path = f"{GROUP_PATH}/namespaces/{self._access.namespace}/{plural}"
        return f"{path}/{name}" if name else path

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """The object that the server answers. Raises ApiError."""
        connection, _, response = self._request(method, path, body, content_type)
        with contextlib.closing(connection), _as_api_error(_asked(method, path)):
            return _object(_body(response))

    def watch(self, path: str, *, silence_seconds: float) -> "Stream":
        """The events at `path`, whose query says what is watched. Raises ApiError.

        A stream on which nothing comes for `silence_seconds` is taken for broken.
        """
        connection, wire, response = self._request("GET", path, None, "application/json")
        wire.settimeout(silence_seconds)
        return Stream(connection, wire, response)

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None, content_type: str
    ) -> tuple[HTTPSConnection, socket.socket, HTTPResponse]:
        """An open connection, its socket, and the answer that the server has begun.

        The connection itself forgets the socket when the server says that it is going to close it.
        """
        asked = _asked(method, path)
        with _as_api_error(asked):
            connection = HTTPSConnection(
                self._access.host,
                self._access.port,
                timeout=self._request_seconds,
                context=_trust(self._access.credentials / "ca.crt"),
            )
            try:
                connection.connect()
                wire = connection.sock
                _keep_alive(wire)
                connection.request(
                    method,
                    path,
                    body=None if body is None else json.dumps(body).encode(),
                    headers=self._headers(content_type),
                )
                response = connection.getresponse()
                if response.status >= 300:
                    raise _refusal(asked, response)
            except BaseException:
                connection.close()
                raise
        return connection, wire, response

    def _headers(self, content_type: str) -> dict[str, str]:
        token = (self._access.credentials / "token").read_text().strip()
        return {
            "Accept": "application/json",
            "Authorization": f"Bearer {token}",
            "Content-Type": content_type,
            "User-Agent": "concertina-trainer",
        }


class Stream:
    """An open watch; iterating it waits for the next event and ends when the server ends it."""

    def __init__(
        self, connection: HTTPSConnection, wire: socket.socket, response: HTTPResponse
    ) -> None:
        self._connection = connection
        self._response = response
        self._socket = wire

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._response.close()
        self._connection.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with _as_api_error("the watch"):
            while line := self._response.readline(_MAX_BYTES):
                yield _object(line)

    def abort(self) -> None:
        """End the stream under whoever waits for it in another thread."""
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._socket.fileno())) as s:
            s.shutdown(socket.SHUT_RDWR)


def _asked(method: str, path: str) -> str:
    """A request in a message; what differs from one to the next is left out."""
    return f"{method} {path.partition('?')[0]}"


@contextlib.contextmanager
def _as_api_error(what: str) -> Iterator[None]:
    """Whatever a connection, TLS, HTTP or JSON raise, as an ApiError."""
    try:
        yield
    except TimeoutError as error:
        raise ApiError(f"{what}: no answer in time") from error
    except (OSError, HTTPException, ValueError) as error:
        raise ApiError(f"{what}: {str(error) or type(error).__name__}") from error


def _refusal(what: str, response: HTTPResponse) -> ApiError:
    """What an answer that is not a success says, as far as it says anything."""
    try:
        status = _object(_body(response))
    except ValueError:
        status = {}
    wait = response.headers.get("Retry-After", "")
    details = status.get("details")
    return ApiError(
        f"{what}: {response.status} {status.get('message') or response.reason}"[:512],
        status=response.status,
        reason=str(status.get("reason", "")),
        name=str(details.get("name", "")) if isinstance(details, dict) else "",
        retry_after_seconds=float(wait) if wait.isdecimal() else 0.0,
    )


def _object(text: bytes) -> dict[str, Any]:
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError(f"not a JSON object: {text[:60]!r}")
    return document


def _body(response: HTTPResponse) -> bytes:
    body = response.read(_MAX_BYTES + 1)
    if len(body) > _MAX_BYTES:
        raise ValueError(f"an answer of more than {_MAX_BYTES} bytes")
    return body


def _trust(certificates: Path) -> ssl.SSLContext:
    """The cluster's own authority, read anew each time; without one, those of the system."""
    trust = ssl.create_default_context(cafile=certificates if certificates.exists() else None)
    # Set by default since Python 3.13; the authorities of many clusters lack what it asks for.
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return trust


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
