"""A small JSON client of an API server for tests, on the standard library alone.

It is not the product's client on purpose: what a test looks at must not pass through what it tests.
"""

import base64
import http.client
import json
import socket
import ssl
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")
POLL_SECONDS = 0.05
IDLE_SECONDS = 30.0
"""A connection that was not used for longer may have been closed by the server."""
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class ApiFailure(Exception):
    """The API server refused; `status` is the HTTP status, `reason` the one of Kubernetes."""

    def __init__(self, asked: str, *, status: int, answer: Mapping[str, Any]) -> None:
        self.status = status
        self.reason = str(answer.get("reason", ""))
        self.message = str(answer.get("message", ""))
        super().__init__(f"{asked}: {status} {self.reason}: {self.message}")


class Api:
    """One connection to an API server; not to be shared between threads."""

    def __init__(self, kubeconfig: Path, *, timeout_seconds: float = 60.0) -> None:
        cluster, user = _current(kubeconfig)
        self.url: str = cluster["server"]
        address = urllib.parse.urlsplit(self.url)
        self._headers = {"Accept": "application/json"}
        self._used_at = time.monotonic()
        if token := user.get("token"):
            self._headers["Authorization"] = f"Bearer {token}"
        self._connection = http.client.HTTPSConnection(
            address.hostname or "",
            address.port,
            timeout=timeout_seconds,
            context=_context(cluster, user),
        )

    def call(
        self,
        verb: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        **parameters: Any,
    ) -> dict[str, Any]:
        """The decoded answer.

        Raises:
            ApiFailure: the answer is an error.
            OSError, http.client.HTTPException: there is no answer.
        """
        if parameters:
            path = f"{path}?{urllib.parse.urlencode(parameters)}"
        headers = {**self._headers, "Content-Type": content_type}
        content = None if body is None else json.dumps(body)
        if time.monotonic() - self._used_at > IDLE_SECONDS:
            self._connection.close()  # the next request opens another one
        self._used_at = time.monotonic()
        try:
            self._connection.request(verb, path, content, headers)
            response = self._connection.getresponse()
            answer = _decoded(response.read())
        except (OSError, http.client.HTTPException):
            self._connection.close()  # the next call opens another one
            raise
        if response.status >= http.client.BAD_REQUEST:
            raise ApiFailure(f"{verb} {path}", status=response.status, answer=answer)
        return answer

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        return self.call("GET", path, **parameters)

    def find(self, path: str) -> dict[str, Any] | None:
        """The object, or None where there is none."""
        try:
            return self.get(path)
        except ApiFailure as failure:
            if failure.status == http.client.NOT_FOUND:
                return None
            raise

    def list(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        return list(self.get(path, **parameters)["items"])

    def create(self, path: str, body: Mapping[str, Any], **parameters: Any) -> dict[str, Any]:
        """Create in the collection that `path` names."""
        return self.call("POST", path, body, **parameters)

    def patch(self, path: str, body: Mapping[str, Any], **parameters: Any) -> dict[str, Any]:
        """Merge into the object that `path` names."""
        return self.call("PATCH", path, body, content_type=MERGE_PATCH, **parameters)

    def apply(self, path: str, body: Mapping[str, Any], *, owner: str = "test") -> dict[str, Any]:
        """Server-side apply of the object that `path` names."""
        return self.call(
            "PATCH", path, body, content_type=APPLY_PATCH, fieldManager=owner, force="true"
        )

    def delete(self, path: str, **options: Any) -> None:
        """Delete if it is there; `options` are fields of DeleteOptions."""
        try:
            self.call("DELETE", path, options or None)
        except ApiFailure as failure:
            if failure.status != http.client.NOT_FOUND:
                raise

    def wait(
        self,
        path: str,
        condition: Callable[[dict[str, Any]], T],
        what: str,
        *,
        seconds: float = 60.0,
    ) -> T:
        """What the condition finds true in the object (or list) at `path`; outlives lost connections.

        Raises:
            AssertionError: it did not come true in time; with the object as it is then.
        """

        def look() -> T | None:
            try:
                found = self.find(path)
            except (OSError, http.client.HTTPException):
                return None  # a server that is starting again
            return None if found is None else condition(found)

        return wait_for(look, lambda: f"{what}; {path} is {json.dumps(self.find(path))}", seconds)

    def wait_gone(self, path: str, *, seconds: float = 60.0) -> None:
        """Wait until there is no such object."""
        wait_for(lambda: self.find(path) is None, lambda: f"{path} did not go", seconds)

    def watch(self, path: str) -> Iterator[dict[str, Any]]:
        """Events of a collection until another thread calls `end_watch`; takes up the connection."""
        self._connection.request("GET", f"{path}?watch=1", headers=self._headers)
        with self._connection.getresponse() as response:
            while line := response.readline():
                yield json.loads(line)

    def end_watch(self) -> None:
        """Let a watch that another thread follows end."""
        if self._connection.sock is not None:
            self._connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()

    def __del__(self) -> None:
        # Most tests keep one until they end; an open socket would be a warning then.
        if hasattr(self, "_connection"):
            self.close()


def wait_for(found: Callable[[], T | None], what: Callable[[], str], seconds: float = 60.0) -> T:
    """The first true thing found.

    Raises:
        AssertionError: nothing true was found in `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what()}")
        time.sleep(POLL_SECONDS)
    return answer


def has_condition(name: str, status: str = "True") -> Callable[[Mapping[str, Any]], bool]:
    """Whether an object has this condition, for `wait`."""

    def holds(found: Mapping[str, Any]) -> bool:
        conditions = found.get("status", {}).get("conditions") or ()
        return any(each["type"] == name and each["status"] == status for each in conditions)

    return holds


def _current(kubeconfig: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cluster and the user of the current context."""
    document = yaml.safe_load(kubeconfig.read_text())

    def named(kind: str, name: str) -> dict[str, Any]:
        return next(each[kind] for each in document[f"{kind}s"] if each["name"] == name)

    context = named("context", document["current-context"])
    return named("cluster", context["cluster"]), named("user", context["user"])


def _context(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: _file(source, name, folder=Path(folder))
            for source, name in (
                (cluster, "certificate-authority"),
                (user, "client-certificate"),
                (user, "client-key"),
            )
        }
        context = ssl.create_default_context(cafile=found["certificate-authority"])
        if found["client-certificate"]:
            context.load_cert_chain(found["client-certificate"], found["client-key"])
    return context


def _file(source: Mapping[str, Any], name: str, *, folder: Path) -> str | None:
    """A file with what a kubeconfig holds under this name, in place or by path."""
    if encoded := source.get(f"{name}-data"):
        path = folder / name
        path.write_bytes(base64.b64decode(encoded))
        return str(path)
    return source.get(name)


def _decoded(content: bytes) -> dict[str, Any]:
    try:
        decoded = json.loads(content)
    except ValueError:
        decoded = None
    return decoded if isinstance(decoded, dict) else {"message": content.decode(errors="replace")}
