"""The HTTP endpoint of a pod: `/readyz` for the kubelet, metrics everywhere else.

Served from threads, so that it answers however long a turn of the agent takes, and at the pod's
addresses of both families: the kubelet asks at that which the cluster prefers.
"""

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from concertina_api.errors import InvalidJob, MissingPackage
from concertina_trainer.agent.metrics import PodCollector

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def server_bind(self) -> None:
        if self.address_family is socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nobody wants a line for each probe."""


def serve_endpoint(
    collector: PodCollector, *, port: int, is_ready: Callable[[], bool]
) -> WSGIServer:
    """Serve on `port` in threads; `shutdown()` of the returned server ends it.

    `/readyz` answers 200 once the pod `is_ready`, 503 before. Raises InvalidJob when the port is
    taken, MissingPackage without prometheus_client.
    """
    try:
        from prometheus_client import CollectorRegistry, make_wsgi_app
    except ImportError as error:
        raise MissingPackage(
            "prometheus-client", extra="trainer", purpose="serving metrics"
        ) from error

    registry = CollectorRegistry()
    registry.register(collector)
    metrics: WSGIApplication = make_wsgi_app(registry)

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/readyz":
            return metrics(environ, start_response)
        ready = is_ready()
        status = "200 OK" if ready else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain")])
        return [b"ready\n" if ready else b"the workers are not warm\n"]

    try:
        server = make_server("", port, answer, server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise InvalidJob(
            f"CONCERTINA_METRICS_PORT={port}: cannot serve metrics there: {error}"
        ) from error
    threading.Thread(target=server.serve_forever, name="concertina-endpoint", daemon=True).start()
    return server
