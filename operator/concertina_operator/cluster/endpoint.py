"""Listens for those who ask the operator: for its health, and for its metrics.

Started by serve.py before anything else. Health is open on a plain port, because the kubelet asks
without a word of who it is. Metrics are there as well, or with a certificate on a port of their
own; a token may be asked for them.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from concertina_operator.cluster.metrics import CONTENT_TYPE, Metrics
from concertina_operator.cluster.secret_files import Certificate, TokenFile

Handlers = Mapping[str, Callable[[web.Request], Awaitable[web.Response]]]

_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="concertina"'}


def metrics_handlers(metrics: Metrics, *, token: TokenFile | None) -> Handlers:
    """/metrics, for anybody or for who has the token."""

    async def serve(request: web.Request) -> web.Response:
        if token is not None and not token.admits(request.headers.get("Authorization", "")):
            return web.Response(status=401, text="a bearer token is needed", headers=_CHALLENGE)
        text = await asyncio.to_thread(metrics.look())
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    return {"/metrics": serve}


class Endpoints:
    """The ports of one process."""

    def __init__(
        self, *, health: Handlers, metrics: Handlers, certificate: Certificate | None
    ) -> None:
        """With a certificate, metrics have a port of their own."""
        self._health = health
        self._metrics = metrics
        self._certificate = certificate
        self._runners: list[web.AppRunner] = []

    async def start(self, *, port: int, metrics_port: int) -> str:
        """Listens on all addresses; in words, what is served where. Port 0 draws one."""
        if self._certificate is None:
            bound = await self._listen({**self._health, **self._metrics}, port=port, tls=None)
            return f"health and metrics on port {bound}"
        tls = self._certificate.server_context()
        bound = await self._listen(self._health, port=port, tls=None)
        secure = await self._listen(self._metrics, port=metrics_port, tls=tls)
        return f"health on port {bound}, metrics with TLS on port {secure}"

    async def stop(self) -> None:
        """Closes all ports."""
        for runner in self._runners:
            await runner.cleanup()

    async def _listen(self, handlers: Handlers, *, port: int, tls: ssl.SSLContext | None) -> int:
        """The port. Each family of addresses draws its own; this is that of IPv4 if there is one."""
        application = web.Application()
        for path, handler in handlers.items():
            application.router.add_get(path, handler)
        runner = web.AppRunner(application, access_log=None)
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, port=port, ssl_context=tls).start()
        found: int = min(runner.addresses, key=len)[1]
        return found
