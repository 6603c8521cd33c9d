"""Serves /healthz, /readyz and /metrics. Started by serve.py before anything else.

Liveness fails when this process should be started anew: a watch is dead although other calls
succeed, or a job waits or is worked on far too long. An API server that is away is no
reason: nothing here would be better in a new process. A blocked event loop fails by not answering.

Readiness fails while this process cannot do its work, or take it over: it cannot read the lease, or
it leads and has not listed everything yet. One that stands by is ready, because it is ready to lead.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from aiohttp import web

from concertina_operator.cluster.metrics import CONTENT_TYPE, Metrics

SILENCE_SECONDS: Final = 120.0
WAITING_SECONDS: Final = 600.0
BUSY_SECONDS: Final = 1800.0
"""More than hundreds of pods take to create behind a slow admission webhook."""
UNREAD_SECONDS: Final = 30.0

Complaints = Callable[[], Iterable[str]]
"""What is wrong now, in words."""


def complaints(
    *, silent_seconds: float, oldest_seconds: float, busiest_seconds: float
) -> Iterator[str]:
    """What speaks against going on in this process."""
    if silent_seconds > SILENCE_SECONDS:
        yield f"a watch is silent for {silent_seconds:.0f} s > {SILENCE_SECONDS:.0f} s"
    if oldest_seconds > WAITING_SECONDS:
        yield f"a job waits for {oldest_seconds:.0f} s > {WAITING_SECONDS:.0f} s"
    if busiest_seconds > BUSY_SECONDS:
        yield f"a job is worked on for {busiest_seconds:.0f} s > {BUSY_SECONDS:.0f} s"


def hindrances(*, unread_seconds: float, is_listing: bool) -> Iterator[str]:
    """Why this process can neither work nor take over now."""
    if unread_seconds > UNREAD_SECONDS:
        yield f"the lease was not read for {unread_seconds:.0f} s > {UNREAD_SECONDS:.0f} s"
    if is_listing:
        yield "not everything that is there has been listed yet"


class Health:
    """The endpoints of one process."""

    def __init__(self, *, metrics: Metrics, complaints: Complaints, hindrances: Complaints) -> None:
        """`complaints` speak against this process being alive, `hindrances` against its readiness."""
        self._metrics = metrics
        self._complaints = complaints
        self._hindrances = hindrances
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
        return _verdict(self._complaints())

    async def _readyz(self, _: web.Request) -> web.Response:
        return _verdict(self._hindrances())

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        text = await asyncio.to_thread(self._metrics.look())
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})


def _verdict(against: Iterable[str]) -> web.Response:
    words = "\n".join(against)
    return web.Response(status=503 if words else 200, text=words or "ok")
