"""The operator's process: `concertina-operator`, or `python -m concertina_operator.cluster`.

Health first, then the lease, then the work. Starting and getting the lease are tried for ever. A lost
lease ends the process at once, without a word to anybody: another one leads already, and nothing
that is still in hand may reach the API server. A signal ends it in order: jobs in hand are finished,
then the lease is given up.
"""

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NoReturn

import click

from concertina_operator.cluster.client import Api
from concertina_operator.cluster.credentials import NoCluster, read_credentials
from concertina_operator.cluster.health import Health, complaints, hindrances
from concertina_operator.cluster.lease import Lease
from concertina_operator.cluster.metrics import Metrics
from concertina_operator.cluster.rights import OPERATOR
from concertina_operator.cluster.shell import NUM_WORKERS, PODS_PER_SECOND, Shell

_PATIENCE_SECONDS: Final = 15.0
"""How long jobs in hand may take when the process is told to end."""

_COLLECT_AFTER: Final = (20_000, 20, 50)
"""Python's own thresholds look for garbage with every third pod that a watch tells of."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a process is told."""

    namespace: str | None
    """Whose jobs to serve; None serves all."""
    lease_namespace: str
    port: int
    num_workers: int = NUM_WORKERS
    pods_per_second: float = PODS_PER_SECOND


@click.command()
@click.option("--namespace", help="Serve the jobs of this namespace only. Default: all.")
@click.option("--lease-namespace", help="Namespace of the lease. Default: the pod's own.")
@click.option("--port", default=8080, show_default=True, help="Of health and metrics.")
@click.option("--workers", default=NUM_WORKERS, show_default=True, help="Jobs served at once.")
@click.option(
    "--pods-per-second",
    type=click.FloatRange(min=0, min_open=True),
    default=PODS_PER_SECOND,
    show_default=True,
    help="Most pods created in a second, after a first burst of as many.",
)
def main(
    namespace: str | None,
    lease_namespace: str | None,
    port: int,
    workers: int,
    pods_per_second: float,
) -> None:
    """Run the operator on the cluster that this process is in, or that the kubeconfig names."""
    logging.basicConfig(
        level=os.environ.get("CONCERTINA_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    logging.getLogger("kopf").setLevel(logging.WARNING)
    gc.set_threshold(*_COLLECT_AFTER)
    try:
        own_namespace = read_credentials().namespace
    except NoCluster as error:
        raise click.ClickException(str(error)) from error
    settings = Settings(
        namespace=namespace,
        lease_namespace=lease_namespace or own_namespace,
        port=port,
        num_workers=workers,
        pods_per_second=pods_per_second,
    )
    asyncio.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Leads, or waits to lead, until a signal. Raises what cannot be mended in this process."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
    metrics = Metrics()
    # The lease has connections of its own: it never waits for the calls of the reconciles.
    async with Api(on_answer=metrics.answered) as unfenced:
        lease = Lease(
            unfenced, namespace=settings.lease_namespace, name=OPERATOR, identity=identity
        )
        async with Api(on_answer=metrics.answered, may_write=lease.may_act) as api:
            shell = Shell(
                api,
                namespace=settings.namespace,
                instance=identity,
                metrics=metrics,
                num_workers=settings.num_workers,
                pods_per_second=settings.pods_per_second,
            )
            health = Health(
                metrics=metrics,
                complaints=lambda: _complaints(
                    lease, shell, succeeded_at=max(unfenced.succeeded_at, api.succeeded_at)
                ),
                hindrances=lambda: hindrances(
                    unread_seconds=lease.unread_seconds(),
                    is_listing=lease.may_act() and not shell.is_synced,
                ),
            )
            port = await health.start(port=settings.port)
            _log.info("%s serves health and metrics on port %d", identity, port)
            try:
                if await _led(lease, stop):
                    metrics.leader.set(1)
                    await _work(shell, lease, stop)
            finally:
                await lease.release()
                await health.stop()


def _complaints(lease: Lease, shell: Shell, *, succeeded_at: float) -> Iterable[str]:
    """Only a leader watches anything."""
    if not lease.may_act():
        return ()
    return complaints(
        silent_seconds=shell.silent_seconds(succeeded_at=succeeded_at),
        oldest_seconds=shell.queue.oldest_seconds(),
        busiest_seconds=shell.queue.busiest_seconds(),
    )


async def _led(lease: Lease, stop: asyncio.Event) -> bool:
    """Waits for the leadership; False when the process is told to end before."""
    acquiring = asyncio.create_task(lease.acquire())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((acquiring, stopping), return_when=asyncio.FIRST_COMPLETED)
    for task in (acquiring, stopping):
        task.cancel()
    if acquiring.done() and not acquiring.cancelled():
        acquiring.result()
    return not stop.is_set()


async def _work(shell: Shell, lease: Lease, stop: asyncio.Event) -> None:
    keeping = asyncio.create_task(lease.keep())
    keeping.add_done_callback(_end_when_lost)
    working = asyncio.create_task(shell.run())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        _log.info("told to end: finishes what is in hand")
        await shell.finish(patience_seconds=_PATIENCE_SECONDS)
    tasks = (working, stopping, keeping)
    for task in tasks:
        task.cancel()
    ended, *_ = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended


def _end_when_lost(keeping: asyncio.Task[None]) -> None:
    if not keeping.cancelled():
        _end_at_once()


def _end_at_once() -> NoReturn:
    _log.error("the lease is lost: this process ends")
    logging.shutdown()
    os._exit(1)
