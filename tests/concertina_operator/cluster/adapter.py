"""A metrics adapter of the test: serves one number as a custom metric of every object.

The test's cluster has no Prometheus and no adapter. The API server is told to ask this process
instead, so that the real autoscaler reads a metric in the way it always does.
"""

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.cluster.api import Api, has_condition

GROUP, VERSION = "custom.metrics.k8s.io", "v1beta2"
ROOT = f"/apis/{GROUP}/{VERSION}"
SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"


@dataclass
class Adapter:
    """What it answers."""

    value: int
    asked: set[str] = field(default_factory=set)
    """Paths of the metrics that somebody has read, below the root."""

    def answer(self, path: str) -> dict[str, Any]:
        if path == ROOT:
            return {
                "kind": "APIResourceList",
                "groupVersion": f"{GROUP}/{VERSION}",
                "resources": [],
            }
        self.asked.add(path.removeprefix(f"{ROOT}/"))
        _, namespace, resource, name, metric = path.removeprefix(f"{ROOT}/").split("/")
        item = {
            "describedObject": {"kind": resource, "namespace": namespace, "name": name},
            "metric": {"name": metric},
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "value": str(self.value),
        }
        kind = {"kind": "MetricValueList", "apiVersion": f"{GROUP}/{VERSION}"}
        return {**kind, "metadata": {}, "items": [item]}


@contextmanager
def metrics_adapter(api: Api, namespace: str, folder: Path, *, value: int) -> Iterator[Adapter]:
    """An adapter that the API server asks, as long as the context is open."""
    adapter = Adapter(value)
    with _served(adapter, folder) as port:
        services = f"/api/v1/namespaces/{namespace}/services"
        # The name of a host in the place of pods: the API server itself is on this machine.
        elsewhere = {"type": "ExternalName", "externalName": "localhost"}
        api.create(services, {"metadata": {"name": "adapter"}, "spec": elsewhere})
        name = f"{VERSION}.{GROUP}"
        spec = {
            "group": GROUP,
            "version": VERSION,
            "service": {"namespace": namespace, "name": "adapter", "port": port},
            "insecureSkipTLSVerify": True,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        }
        api.create(SERVICES, {"metadata": {"name": name}, "spec": spec})
        try:
            available = has_condition("Available")
            api.wait(f"{SERVICES}/{name}", available, "the API server does not ask the adapter")
            yield adapter
        finally:
            api.delete(f"{SERVICES}/{name}")
            api.delete(f"{services}/adapter")


@contextmanager
def _served(adapter: Adapter, folder: Path) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            known = path.startswith(ROOT)
            content = json.dumps(adapter.answer(path) if known else {}).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = _context(folder).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _context(folder: Path) -> ssl.SSLContext:
    key, certificate = folder / "adapter.key", folder / "adapter.crt"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
