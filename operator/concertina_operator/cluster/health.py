"""Serves /healthz, /readyz and /metrics. Started by serve.py before anything else.

Liveness fails when this process should be started anew: a watch is dead although the API server
answers other calls, or a job waits in the queue far too long. An API server that is away is no
reason: nothing here would be better in a new process. A process that does not lead is alive and
ready, because it is ready to lead. A blocked event loop fails by not answering.
"""

from collections.abc import Callable, Iterator
from typing import Final

from aiohttp import web

from concertina_operator.cluster.metrics import CONTENT_TYPE, Metrics

SILENCE_SECONDS: Final = 120.0
WAITING_SECONDS: Final = 600.0


def complaints(*, silent_seconds: float, oldest_seconds: float) -> Iterator[str]:
    """What speaks against going on in this process."""
    if silent_seconds > SILENCE_SECONDS:
        yield f"a watch is silent for {silent_seconds:.0f} s > {SILENCE_SECONDS:.0f} s"
    if oldest_seconds > WAITING_SECONDS:
        yield f"a job waits for {oldest_seconds:.0f} s > {WAITING_SECONDS:.0f} s"


class Health:
    """The endpoints of one process."""

    def __init__(self, *, metrics: Metrics, find_complaints: Callable[[], tuple[str, ...]]) -> None:
        self._metrics = metrics
        self._find_complaints = find_complaints
        self._runner: web.AppRunner | None = None

    async def start(self, *, port: int) -> int:
        """Listens on all addresses; the port, which is drawn when 0 is asked for.

        Each family of addresses draws its own then; the answer is that of IPv4 where there is one.
        """
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._serve_metrics)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, port=port)
        await site.start()
        bound = sorted(self._runner.addresses, key=lambda address: len(address))
        found: int = bound[0][1]
        return found

    async def stop(self) -> None:
        """Closes the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        found = self._find_complaints()
        return web.Response(status=503 if found else 200, text="\n".join(found) or "ok")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})
