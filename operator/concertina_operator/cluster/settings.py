"""What an operator's process is told at its start. Made and used by serve.py."""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path

import click

from concertina_operator.cluster.notices import KNOWN_TAINTS, taints_fault
from concertina_operator.cluster.secret_files import Certificate, TokenFile
from concertina_operator.cluster.shell import NUM_WORKERS, PODS_PER_SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a process is told."""

    namespace: str | None
    """Whose jobs to serve; None serves all."""
    lease_namespace: str
    port: int
    metrics_port: int
    token: TokenFile | None = None
    """What to ask of who reads the metrics; None lets anybody."""
    certificate: Certificate | None = None
    """None serves metrics beside health."""
    num_workers: int = NUM_WORKERS
    pods_per_second: float = PODS_PER_SECOND
    notice_taints: Set[str] | None = None
    """Taints by which nodes say that they are about to be taken away; None reads no nodes."""
    log_format: str | None = None
    """What pods are told to log in; None tells them nothing."""


def read_certificate(cert_file: Path | None, key_file: Path | None) -> Certificate | None:
    """What to serve metrics with: both files, or none of them.

    Raises UnusableFile, and click.UsageError when one of two is named.
    """
    if cert_file is None and key_file is None:
        return None
    if cert_file is None or key_file is None:
        raise click.UsageError("a certificate needs its key: name both TLS files, or neither")
    return Certificate(cert_file=cert_file, key_file=key_file)


def read_notice_taints(*, watch_nodes: bool, more: Iterable[str]) -> Set[str] | None:
    """The known taints and these; None where nodes are not watched. Raises click.UsageError."""
    asked = frozenset(more)
    if fault := taints_fault(asked):
        raise click.UsageError(f"--notice-taint: {fault}")
    if asked and not watch_nodes:
        raise click.UsageError("--notice-taint needs --watch-nodes")
    return KNOWN_TAINTS | asked if watch_nodes else None
