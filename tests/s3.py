"""A real S3 server on this machine: moto's, a process that keeps its objects in memory."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.api import wait_for
from tests.ports import free_port

BUCKET = "checkpoints"


class S3Server:
    """The server; `environment` is what its clients are given."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self._log = log
        self.environment: Mapping[str, str] = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, empty but for its bucket."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_for(self._listens, lambda: self._log.read_text())
        self.client().create_bucket(Bucket=BUCKET)

    def client(self) -> Any:
        """A plain client of S3, as somebody else's tool would be."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )

    def keys(self, prefix: str) -> list[str]:
        """Names of the objects below a prefix, without it."""
        found = self.client().list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
        return sorted(
            entry["Key"].removeprefix(f"{prefix}/") for entry in found.get("Contents", [])
        )

    def hang(self) -> None:
        """Take connections, by the kernel, and answer none."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def answer(self) -> None:
        """Answer again."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A running server, to which the clients of this process are led by the environment too."""
    server = S3Server(folder / "s3.log")
    before = {name: os.environ.get(name) for name in server.environment}
    try:
        server.start()
        os.environ.update(server.environment)
        yield server
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
