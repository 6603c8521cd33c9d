"""Operators for tests: processes under their own service account, and threads that die on demand."""

import asyncio
import gc
import os
import re
import subprocess
import sys
import threading
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from concertina_operator.cluster.client import Api
from concertina_operator.cluster.errors import Unreachable
from concertina_operator.cluster.metrics import Metrics
from concertina_operator.cluster.rights import OPERATOR, operator_rights
from concertina_operator.cluster.shell import Shell
from tests.cluster.api import Api as AdminApi
from tests.cluster.api import wait_for
from tests.cluster.cluster import Cluster
from tests.concertina_operator.cluster.installed import apply_all


@dataclass(kw_only=True)
class OperatorProcess:
    """One replica."""

    process: subprocess.Popen
    log: Path

    def port(self) -> int:
        """Where it serves its health."""
        return self._told(r"health(?: and metrics)? on port (\d+)")

    def secure_port(self) -> int:
        """Where it serves its metrics with TLS."""
        return self._told(r"metrics with TLS on port (\d+)")

    def leads(self) -> bool:
        return " leads" in self.log.read_text()

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def ask(self, path: str) -> str:
        """What it answers on its port.

        Raises:
            urllib.error.HTTPError: it complains.
        """
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port()}{path}") as answer:
            return str(answer.read().decode())

    def _told(self, pattern: str) -> int:
        def found():
            match = re.search(pattern, self.log.read_text())
            return int(match[1]) if match else None

        return wait_for(found, lambda: f"no {pattern}: {self.log.read_text()}")


def by_leadership(*replicas: OperatorProcess) -> list[OperatorProcess]:
    """The leader first, once one leads and all serve."""
    wait_for(
        lambda: any(replica.leads() for replica in replicas),
        lambda: f"nobody leads: {[replica.log.read_text() for replica in replicas]}",
    )
    for replica in replicas:
        replica.port()
    return sorted(replicas, key=lambda replica: not replica.leads())


def operator_kubeconfig(cluster: Cluster, api: AdminApi, namespace: str, path: Path) -> Path:
    """A kubeconfig with the rights of an operator of this namespace alone."""
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": OPERATOR, "namespace": namespace},
    }
    apply_all(api, [account, *operator_rights(namespace=namespace, jobs_in=namespace)])
    return cluster.service_account_kubeconfig(path, namespace=namespace, name=OPERATOR)


@contextmanager
def operator_process(
    kubeconfig: Path,
    namespace: str,
    log: Path,
    *arguments: str,
    variables: Mapping[str, str] | None = None,
) -> Iterator[OperatorProcess]:
    """A replica that is killed in the end, if it still runs; `variables` are of its environment."""
    command = [sys.executable, "-m", "concertina_operator.cluster"]
    command += ["--port", "0", "--metrics-port", "0"]
    command += ["--namespace", namespace, "--lease-namespace", namespace, *arguments]
    environment = os.environ | {"CONCERTINA_KUBECONFIG": str(kubeconfig)} | dict(variables or {})
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        yield OperatorProcess(process=process, log=log)
    finally:
        process.kill()
        process.wait()


class MortalApi(Api):
    """An API client whose process dies as soon as a certain write for a job has arrived."""

    def __init__(self, *, job: str, dies_after: int | None) -> None:
        super().__init__()
        self._job = job
        self._dies_after = dies_after
        self.is_dead = threading.Event()
        self.writes: list[str] = []
        """Those for the job; all but events, which are only told."""

    async def call(self, verb: str, path: str, **options: Any) -> dict[str, Any]:
        self._live()
        answer = await super().call(verb, path, **options)
        is_rehearsal = "dryRun" in (options.get("params") or {})
        is_write = verb != "GET" and not path.endswith("/events") and not is_rehearsal
        if is_write and self._concerns_job(path, options.get("body") or {}):
            self.writes.append(f"{verb} {path}")
            if len(self.writes) == self._dies_after:
                self.is_dead.set()
        self._live()
        return answer

    def _concerns_job(self, path: str, body: Mapping[str, Any]) -> bool:
        """Whether the job or one of its objects, which are named after it, is written."""
        names = (*path.split("/"), body.get("metadata", {}).get("name", ""))
        return any(name == self._job or name.startswith(f"{self._job}-") for name in names)

    def _live(self) -> None:
        if self.is_dead.is_set():
            raise Unreachable(0, "Dead", "this process was killed")


class ShellThread:
    """A leader's work in a thread, on a client of the test's choice."""

    def __init__(
        self, namespace: str | None, *, job: str = "", dies_after: int | None = None
    ) -> None:
        """It dies after so many writes for this job; None lets it live."""
        self._namespace = namespace
        self._job = job
        self._dies_after = dies_after
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.metrics = Metrics()
        self.api: MortalApi
        self.shell: Shell

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        with warnings.catch_warnings():
            # kopf leaves connections open that it opened while it was told to stop.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with MortalApi(job=self._job, dies_after=self._dies_after) as self.api:
            self.shell = Shell(
                self.api, namespace=self._namespace, instance="test", metrics=self.metrics
            )
            self._task = asyncio.create_task(self.shell.run())
            self._started.set()
            with suppress(asyncio.CancelledError):
                await self._task
