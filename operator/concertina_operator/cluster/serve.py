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
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NoReturn

import click

from concertina_operator.cluster.client import Api
from concertina_operator.cluster.credentials import NoCluster, read_credentials
from concertina_operator.cluster.endpoint import Endpoints, metrics_handlers
from concertina_operator.cluster.health import complaints, health_handlers, hindrances
from concertina_operator.cluster.lease import Lease
from concertina_operator.cluster.logs import LogFormat, set_up_logs
from concertina_operator.cluster.metrics import Metrics
from concertina_operator.cluster.rights import OPERATOR
from concertina_operator.cluster.secret_files import TokenFile, UnusableFile
from concertina_operator.cluster.settings import Settings, read_certificate, read_notice_taints
from concertina_operator.cluster.shell import NUM_WORKERS, PODS_PER_SECOND, Shell

_PATIENCE_SECONDS: Final = 15.0
"""How long jobs in hand may take when the process is told to end."""

_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
_FILE: Final = click.Path(path_type=Path)
_MOST_CALLS: Final = 50_000
"""Free-form parts of a job may nest as deep as the API server takes them, 10,000 levels; within
Python's own bound one such job would hide all others: no list and no watch could be read."""
_COLLECT_AFTER: Final = (20_000, 20, 50)
"""Python's own thresholds look for garbage with every third pod that a watch tells of."""

_log = logging.getLogger(__name__)


@click.command()
@click.option("--namespace", help="Serve the jobs of this namespace only. Default: all.")
@click.option("--lease-namespace", help="Namespace of the lease. Default: the pod's own.")
@click.option("--port", default=8080, show_default=True, help="Of health, and of metrics.")
@click.option("--metrics-port", default=8443, show_default=True, help="Of metrics with TLS.")
@click.option(
    "--metrics-token-file",
    type=_FILE,
    envvar="CONCERTINA_METRICS_TOKEN_FILE",
    show_envvar=True,
    help="Ask for this bearer token at /metrics.",
)
@click.option(
    "--metrics-tls-cert-file",
    type=_FILE,
    envvar="CONCERTINA_METRICS_TLS_CERT_FILE",
    show_envvar=True,
    help="Serve metrics with this certificate (and its chain).",
)
@click.option(
    "--metrics-tls-key-file",
    type=_FILE,
    envvar="CONCERTINA_METRICS_TLS_KEY_FILE",
    show_envvar=True,
    help="Key of that certificate.",
)
@click.option("--workers", default=NUM_WORKERS, show_default=True, help="Jobs served at once.")
@click.option(
    "--pods-per-second",
    type=click.FloatRange(min=0, min_open=True),
    default=PODS_PER_SECOND,
    show_default=True,
    help="Most pods created in a second, after a first burst of as many.",
)
@click.option(
    "--watch-nodes",
    is_flag=True,
    envvar="CONCERTINA_WATCH_NODES",
    show_envvar=True,
    help="Read nodes, and let pods leave those that are about to be taken away.",
)
@click.option(
    "--notice-taint",
    "notice_taints",
    multiple=True,
    metavar="KEY",
    help="Key of one more taint that says so; may be given several times.",
)
@click.option(
    "--log-format",
    type=click.Choice([entry.value for entry in LogFormat]),
    default=LogFormat.TEXT.value,
    show_default=True,
    envvar="CONCERTINA_LOG_FORMAT",
    show_envvar=True,
    help="Lines of text, or one JSON object a line.",
)
@click.option(
    "--log-level",
    type=click.Choice(_LEVELS, case_sensitive=False),
    default="INFO",
    show_default=True,
    envvar="CONCERTINA_LOG_LEVEL",
    show_envvar=True,
    help="What is logged at least.",
)
def main(
    *,
    namespace: str | None,
    lease_namespace: str | None,
    port: int,
    metrics_port: int,
    metrics_token_file: Path | None,
    metrics_tls_cert_file: Path | None,
    metrics_tls_key_file: Path | None,
    workers: int,
    pods_per_second: float,
    watch_nodes: bool,
    notice_taints: tuple[str, ...],
    log_format: str,
    log_level: str,
) -> None:
    """Run the operator on the cluster that this process is in, or that the kubeconfig names."""
    set_up_logs(LogFormat(log_format), level=log_level)
    gc.set_threshold(*_COLLECT_AFTER)
    sys.setrecursionlimit(_MOST_CALLS)
    try:
        own_namespace = read_credentials().namespace
        settings = Settings(
            namespace=namespace,
            lease_namespace=lease_namespace or own_namespace,
            port=port,
            metrics_port=metrics_port,
            token=TokenFile(metrics_token_file) if metrics_token_file else None,
            certificate=read_certificate(metrics_tls_cert_file, metrics_tls_key_file),
            num_workers=workers,
            pods_per_second=pods_per_second,
            notice_taints=read_notice_taints(watch_nodes=watch_nodes, more=notice_taints),
            log_format=log_format,
        )
    except (NoCluster, UnusableFile, click.UsageError) as error:
        _log.critical("cannot start: %s", error)
        sys.exit(error.exit_code if isinstance(error, click.UsageError) else 1)
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
                notice_taints=settings.notice_taints,
                log_format=settings.log_format,
            )
            endpoints = Endpoints(
                health=health_handlers(
                    against_life=lambda: _complaints(
                        lease, shell, succeeded_at=max(unfenced.succeeded_at, api.succeeded_at)
                    ),
                    against_readiness=lambda: hindrances(
                        unread_seconds=lease.unread_seconds(),
                        is_listing=lease.may_act() and not shell.is_synced,
                    ),
                ),
                metrics=metrics_handlers(metrics, token=settings.token),
                certificate=settings.certificate,
            )
            places = await endpoints.start(port=settings.port, metrics_port=settings.metrics_port)
            _log.info("%s serves %s", identity, places)
            try:
                if await _led(lease, stop):
                    metrics.leader.set(1)
                    await _work(shell, lease, stop)
            finally:
                await lease.release()
                await endpoints.stop()


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
