"""Decides whether this process is well. Asked at /healthz and /readyz, which endpoint.py serves.

Liveness fails when this process should be started anew: a watch is dead although other calls
succeed, or a job waits or is worked on far too long. An API server that is away is no
reason: nothing here would be better in a new process. A blocked event loop fails by not answering.

Readiness fails while this process cannot do its work, or take it over: it cannot read the lease, or
it leads and has not listed everything yet. One that stands by is ready, because it is ready to lead.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from aiohttp import web

from concertina_operator.cluster.endpoint import Handlers

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


def health_handlers(*, against_life: Complaints, against_readiness: Complaints) -> Handlers:
    """/healthz and /readyz, which say what speaks against them."""

    async def healthz(_: web.Request) -> web.Response:
        return _verdict(against_life())

    async def readyz(_: web.Request) -> web.Response:
        return _verdict(against_readiness())

    return {"/healthz": healthz, "/readyz": readyz}


def _verdict(against: Iterable[str]) -> web.Response:
    words = "\n".join(against)
    return web.Response(status=503 if words else 200, text=words or "ok")
