"""A small HTTPS server that answers a pod like the API server does, and misbehaves when told to.

It keeps objects with versions and a log of what happened to them, serves watches from it, knows
one token, and remembers every request.
"""

import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAMESPACE = "lab"
PREFIX = f"/apis/concertina.dev/v1alpha1/namespaces/{NAMESPACE}"
Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    plural: str
    name: str
    query: dict[str, str]
    token: str
    content_type: str
    body: Document | None
    at: float = field(default_factory=time.monotonic)

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "1"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An answer instead of the right one, to the next requests that match."""

    matches: Callable[[Request], bool]
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"


class Kubernetes:
    """The objects, and how their server behaves now."""

    def __init__(self, folder: Path, certificate: Path) -> None:
        self.token = "first"
        self.credentials = folder / "credentials"
        self.credentials.mkdir()
        self.credentials.joinpath("ca.crt").write_bytes(certificate.with_suffix(".ca").read_bytes())
        self.credentials.joinpath("token").write_text("first\n")
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.silent = False
        """Watches stay open and tell nothing."""
        self.told = 0
        """Newest version of which a watch has been told."""
        self._objects: dict[tuple[str, str], Document] = {}
        self._events: list[tuple[int, str, Document]] = []
        self._version = 100
        self._oldest = 0
        self._changed = threading.Condition()
        self._generation = 0
        self._closed = False
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.with_suffix(".crt"), certificate.with_suffix(".key"))
        self._context = context
        self.port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._closed = False
        self._server = _Server(("127.0.0.1", self.port), _handler(self))
        self._server.context = self._context
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Go away, with all connections."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self.cut()

    def cut(self) -> None:
        """End all open connections without a word."""
        with self._changed:
            self._generation += 1
            self._changed.notify_all()
        for connection in list(self._server.connections):
            # Below TLS, which the connection's own thread is using.
            with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as below:
                below.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Forget what happened so far: a watch cannot go on from it."""
        with self._changed:
            self._events.clear()
            self._oldest = self._version

    def bookmark(self) -> int:
        """Tell watches a newer version at which nothing happened to their object."""
        with self._changed:
            self._version += 1
            mark = {"metadata": {"resourceVersion": str(self._version)}}
            self._events.append((self._version, "BOOKMARK", mark))
            self._changed.notify_all()
            return self._version

    def fail(
        self,
        status: int,
        *,
        times: int = 1,
        matches: Callable[[Request], bool] = lambda _: True,
        headers: dict[str, str] | None = None,
        body: bytes = b"{}",
    ) -> None:
        fault = Fault(matches=matches, status=status, headers=headers or {}, body=body)
        self.faults += [fault] * times

    def get(self, plural: str, name: str) -> Document | None:
        with self._changed:
            return deepcopy(self._objects.get((plural, name)))

    def put(self, plural: str, document: Document) -> Document:
        """Create or replace an object."""
        with self._changed:
            self._version += 1
            key = plural, document["metadata"]["name"]
            kind = "MODIFIED" if key in self._objects else "ADDED"
            stored = deepcopy(document)
            stored["metadata"]["resourceVersion"] = str(self._version)
            self._objects[key] = stored
            self._events.append((self._version, kind, {"plural": plural} | stored))
            self._changed.notify_all()
            return stored

    def delete(self, plural: str, name: str) -> None:
        with self._changed:
            self._version += 1
            gone = self._objects.pop((plural, name))
            gone["metadata"]["resourceVersion"] = str(self._version)
            self._events.append((self._version, "DELETED", {"plural": plural} | gone))
            self._changed.notify_all()

    def events(self, request: Request) -> Iterator[Document]:
        """Events of a watch, as long as its connection is wanted."""
        with self._changed:
            generation = self._generation
            version = int(request.query.get("resourceVersion", 0))
            forgotten = 0 < version < self._oldest
            present = [o for (plural, _), o in self._objects.items() if plural == request.plural]
            begin = self._version
        if forgotten:
            yield {"type": "ERROR", "object": _status(410, "Expired", "too old version", "")}
            return
        if not version:
            yield from ({"type": "ADDED", "object": stored} for stored in present)
            version = begin
        end = time.monotonic() + float(request.query["timeoutSeconds"])
        while time.monotonic() < end:
            with self._changed:
                self._changed.wait(0.05)
                if self._closed or self._generation != generation:
                    return
                news = [] if self.silent else [e for e in self._events if e[0] > version]
            for number, kind, document in news:
                version = number
                if document.get("plural", request.plural) == request.plural:
                    yield {"type": kind, "object": document}
                self.told = number


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    context: ssl.SSLContext

    def __init__(self, *arguments: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread: a client that says nothing must not hold up the others.
        request.settimeout(30)
        with suppress(OSError), self.context.wrap_socket(request, server_side=True) as secured:
            self.connections.add(secured)
            try:
                super().finish_request(secured, client_address)
            finally:
                self.connections.discard(secured)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


def _handler(kubernetes: Kubernetes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.serve()

        do_POST = do_PATCH = do_GET  # noqa: N815 - names of the base class

        def log_message(self, *_: object) -> None:
            pass

        def serve(self) -> None:
            request = self.read()
            kubernetes.requests.append(request)
            fault = next((f for f in kubernetes.faults if f.matches(request)), None)
            if fault is not None:
                kubernetes.faults.remove(fault)
                self.answer(fault.status, fault.body, fault.headers)
            elif request.token != kubernetes.token:
                self.answer_status(_status(401, "Unauthorized", "Unauthorized", ""))
            elif request.is_watch:
                self.watch(request)
            else:
                self.call(request)

        def read(self) -> Request:
            parts = urlsplit(self.path)
            rest = parts.path.removeprefix(PREFIX).split("/")
            length = int(self.headers.get("Content-Length", 0))
            return Request(
                method=self.command,
                plural=rest[1],
                name=rest[2] if len(rest) > 2 else "",
                query={key: values[0] for key, values in parse_qs(parts.query).items()},
                token=self.headers["Authorization"].removeprefix("Bearer "),
                content_type=self.headers["Content-Type"],
                body=json.loads(self.rfile.read(length)) if length else None,
            )

        def call(self, request: Request) -> None:
            name = request.name or (request.body or {})["metadata"]["name"]
            stored = kubernetes.get(request.plural, name)
            if stored is None and request.method != "POST":
                self.answer_status(
                    _status(404, "NotFound", f'{request.plural} "{name}" not found', name)
                )
            elif request.method == "GET":
                self.answer(200, json.dumps(stored).encode())
            elif request.method == "POST" and stored is not None:
                self.answer_status(_status(409, "AlreadyExists", f"{name} already exists", name))
            else:
                document = merged(stored, request.body) if stored else request.body
                self.answer(200, json.dumps(kubernetes.put(request.plural, document)).encode())

        def watch(self, request: Request) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in kubernetes.events(request):
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.write(b"0\r\n\r\n")

        def answer_status(self, status: Document) -> None:
            self.answer(status["code"], json.dumps(status).encode())

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, as in its section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def make_certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1, <path>.crt and <path>.key, and its authority, <path>.ca.

    The authority has no extension that says what its key is for, as those of many clusters.
    """
    path, key = folder / "server", folder / "authority.key"
    authority = path.with_suffix(".ca")
    command = "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2"
    made = ["-subj", "/CN=authority", "-keyout", key, "-out", authority]
    subprocess.run([*command.split(), *made], check=True, capture_output=True)
    made = [
        *("-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-addext", "basicConstraints=critical,CA:FALSE", "-CA", authority, "-CAkey", key),
        *("-keyout", path.with_suffix(".key"), "-out", path.with_suffix(".crt")),
    ]
    subprocess.run([*command.split(), *made], check=True, capture_output=True)
    return path


@contextmanager
def running(folder: Path, certificate: Path) -> Iterator[Kubernetes]:
    kubernetes = Kubernetes(folder, certificate)
    try:
        yield kubernetes
    finally:
        kubernetes.stop()


def _status(code: int, reason: str, message: str, name: str) -> Document:
    return {
        "kind": "Status",
        "code": code,
        "reason": reason,
        "message": message,
        "details": {"name": name},
    }
