"""A tiny real server that answers as a test says, where a control plane would be too well behaved."""

from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def listening(answer):
    """A server whose requests this function answers; its URL."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
