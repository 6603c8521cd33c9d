"""Many jobs on a control plane of their own, and what their operator costs, for benches of it.

Every turn of a bench starts a control plane, so none pays for what an earlier one left. Pods are
bound by the real scheduler to KWOK's nodes, where they run at once and do nothing.
"""

import asyncio
import math
import os
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concertina_operator.cluster.credentials import Credentials
from concertina_operator.cluster.install import trainer_objects
from tests.bench.bare_client import bare_api, post_all
from tests.cluster.api import Api, wait_for
from tests.cluster.cluster import Cluster, wait_for_namespace
from tests.cluster.fake_nodes import fake_nodes
from tests.cluster.fixtures import control_plane_of_its_own
from tests.concertina_operator.cluster.installed import GROUP, apply_all
from tests.concertina_operator.cluster.jobs import a_job
from tests.concertina_operator.cluster.processes import OperatorProcess, operator_kubeconfig

NAMESPACE = "default"
JOBS = f"{GROUP}/namespaces/{NAMESPACE}/adaptivetrainingjobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
PODS_OF_A_NODE = 100
QUERIES_PER_SECOND = 1000
"""Of controllers, scheduler and KWOK: they are not to be what is measured."""
PATIENCE_SECONDS = 600.0
LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A control plane that waits for jobs."""

    cluster: Cluster
    api: Api
    kubeconfig: Path
    """With the rights of an operator of the namespace."""
    folder: Path
    """For what the turn writes."""

    @property
    def admin(self) -> Credentials:
        layout = self.cluster.layout
        assert layout is not None
        return Credentials(
            server=layout.url,
            ca_path=str(layout.certificate("ca")),
            certificate_path=str(layout.certificate("admin")),
            key_path=str(layout.key("admin")),
        )

    def post(self, documents: Iterable[dict[str, Any]], *, path: str = JOBS) -> None:
        """Creates all of them as fast as the API server lets us."""

        async def post() -> None:
            async with bare_api(self.admin) as api:
                await post_all(api, path, documents)

        asyncio.run(post())

    def count(self, path: str) -> int:
        """Objects of a collection, counted by the API server."""
        page = self.api.get(path, limit=1)
        return len(page["items"]) + page["metadata"].get("remainingItemCount", 0)

    def wait_for_pods(self, number: int) -> None:
        wait_for(
            lambda: self.count(PODS) >= number,
            lambda: f"{self.count(PODS)} of {number} pods",
            PATIENCE_SECONDS,
        )

    def seconds_until_created(
        self, documents: Iterable[dict[str, Any]], *, num_pods: int, path: str = JOBS
    ) -> float:
        """From the first of these jobs to the last of all pods."""
        started = time.perf_counter()
        self.post(documents, path=path)
        self.wait_for_pods(num_pods)
        seconds = time.perf_counter() - started
        print(f"{num_pods} pods in {seconds:.1f} s", file=sys.stderr, flush=True)
        return seconds

    async def all_say(self, value: int, *fields: str, num_jobs: int) -> None:
        """Waits until this is what the status of so many jobs has in a field."""
        saying: set[str] = set()
        async with asyncio.timeout(PATIENCE_SECONDS), bare_api(self.admin) as api:
            async for event in api.watch(JOBS):
                job = event["object"]
                says = _field(job.get("status", {}), *fields) == value
                (saying.add if says else saying.discard)(job["metadata"]["name"])
                if len(saying) == num_jobs:
                    return


@contextmanager
def open_fleet(num_pods: int) -> Iterator[Fleet]:
    """A fresh control plane with room for so many pods."""
    with (
        control_plane_of_its_own(queries_per_second=QUERIES_PER_SECOND, audit=False) as cluster,
        closing(cluster.admin()) as api,
        tempfile.TemporaryDirectory(prefix="concertina-bench-") as folder,
    ):
        apply_all(api, trainer_objects())
        wait_for_namespace(api, NAMESPACE)
        kubeconfig = operator_kubeconfig(cluster, api, NAMESPACE, Path(folder) / "kubeconfig")
        with fake_nodes(api, math.ceil(num_pods / PODS_OF_A_NODE)):
            yield Fleet(cluster=cluster, api=api, kubeconfig=kubeconfig, folder=Path(folder))


def jobs(number: int, *, prefix: str, **spec: Any) -> list[dict[str, Any]]:
    """Documents of jobs `<prefix>-<n>`, whose pods have the label bench=<prefix>."""
    template = {
        "metadata": {"labels": {"bench": prefix}},
        "spec": {"containers": [{"name": "trainer", "image": "x"}]},
    }
    batch = {"microBatchSize": 8, "initial": 32, "max": 512, "maxAccumulation": 4}
    return [
        a_job(
            f"{prefix}-{index:04d}",
            **{
                "samples": 1_000_000_000,
                "batch": batch,
                "scaling": {"scaleUpCooldownSeconds": 0},
                **spec,
                "pods": {**spec["pods"], "template": template},
            },
        )
        for index in range(number)
    ]


def wait_until_it_leads(operator: OperatorProcess) -> None:
    wait_for(operator.leads, lambda: operator.log.read_text())


def wait_until_it_has_seen(operator: OperatorProcess, number: int) -> None:
    """Until a fresh replica has reconciled so many jobs."""
    wait_until_it_leads(operator)
    wait_for(
        lambda: Counters(operator).total("reconciles_total") >= number,
        lambda: operator.log.read_text()[-2000:],
        PATIENCE_SECONDS,
    )


def _field(status: Mapping[str, Any], *fields: str) -> Any:
    found: Any = status
    for field in fields:
        found = found.get(field, {})
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process has used so far."""

    cpu_seconds: float
    peak_mib: float

    @classmethod
    def of(cls, pid: int) -> "Usage":
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks = int(fields[11]) + int(fields[12])
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert peak is not None
        return cls(cpu_seconds=ticks / os.sysconf("SC_CLK_TCK"), peak_mib=int(peak[1]) / 1024)


class Counters:
    """An operator's own metrics at one moment."""

    def __init__(self, operator: OperatorProcess) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{operator.port()}/metrics") as answer:
            self._text = answer.read().decode()

    def calls(self, *verbs: str) -> int:
        """Calls to the API server with these verbs, or all."""
        found = re.findall(
            r'^concertina_operator_api_calls_total\{status="\d+",verb="(\w+)"\} (\S+)$',
            self._text,
            re.MULTILINE,
        )
        return sum(int(float(value)) for verb, value in found if not verbs or verb in verbs)

    def writes(self) -> int:
        return self.calls("POST", "PUT", "PATCH", "DELETE")

    def total(self, name: str) -> float:
        """Sum over all labels of a metric."""
        found = re.findall(
            rf"^concertina_operator_{name}(?:\{{.*\}})? (\S+)$", self._text, re.MULTILINE
        )
        return sum(map(float, found))
