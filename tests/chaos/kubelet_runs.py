"""Runs on a real node under chaos, one after the other, judged against an undisturbed local one."""

import contextlib
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

from concertina_operator.cluster import paths
from tests.chaos import evidence
from tests.chaos.arena import Hit, play
from tests.chaos.faults_kubelet import kubelet_fault
from tests.chaos.invariants import Evidence, violations
from tests.chaos.job import MAX_PODS, SAMPLES
from tests.chaos.kubelet import KubeletArena, Restartable, kubelet_arena
from tests.chaos.local_runs import LocalRuns
from tests.chaos.outcome import Judged
from tests.chaos.processes import of_pods
from tests.chaos.schedule import Fault, Strike
from tests.cluster.api import wait_for
from tests.cluster.cluster import Cluster
from tests.cluster.fixtures import node_of_its_own
from tests.e2e.kubelet.operators import install

DEADLINE_SECONDS = 600.0
GONE_SECONDS = 90.0
ANSWERS_SECONDS = 60.0
"""For an API server that the last strike has stopped."""
CHECKPOINTS = Path("checkpoints", "tiny")
"""Where the job of this name has them, in the folder that all jobs of a namespace may share."""
KEPT = ("kube-root-ca.crt",)
"""ConfigMaps that every namespace has."""


class KubeletRuns:
    """A node with an operator, for one run after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._local = LocalRuns(folder)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._local.undisturbed  # noqa: B018 before the node takes its share of the machine
        self._cluster = self._stack.enter_context(node_of_its_own())
        kubeconfig = install(self._cluster, self._folder)
        self._operator = Restartable(kubeconfig, self._folder / "operator.log")
        self._stack.callback(self._operator.kill)
        self._operator.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(self, work: Path, strikes: Sequence[Strike]) -> Judged:
        """Run and judge."""
        began = time.monotonic()
        found, hits = run(self._cluster, self._operator, work, strikes)
        return Judged(
            seconds=time.monotonic() - began,
            hits=hits,
            evidence=found,
            violations=violations(found, undisturbed=self._local.undisturbed),
        )


def run(
    cluster: Cluster, operator: Restartable, work: Path, strikes: Sequence[Strike]
) -> tuple[Evidence, list[Hit]]:
    """One job in a namespace of its own, and what is known about it afterwards."""
    with kubelet_arena(cluster, operator, work, strikes) as arena:
        apply = partial(kubelet_fault, arena)
        hits = play(strikes, arena, apply, deadline_seconds=DEADLINE_SECONDS)
        wait_for(arena.is_reachable, lambda: "an API server that answers", ANSWERS_SECONDS)
        if not arena.is_over():
            (work / "account.txt").write_text(arena.run.account())
        return _collect(arena, strikes), hits


def _collect(arena: KubeletArena, strikes: Sequence[Strike]) -> Evidence:
    run, watch = arena.run, arena.watch
    status = run.status()
    with contextlib.suppress(AssertionError):  # what is left is told below
        run.delete()
    deadline = time.monotonic() + GONE_SECONDS
    while (left := _left(arena)) and time.monotonic() < deadline:
        time.sleep(0.5)  # until it has gone
    watch.stop()
    return Evidence(
        ending=watch.ending or f"not within {DEADLINE_SECONDS:.0f} s",
        samples=SAMPLES,
        max_pods=MAX_PODS,
        rows=evidence.step_rows(run.folder),
        has_gaps=any(strike.fault is Fault.FULL_DISK for strike in strikes),
        state=evidence.final_state(run.folder / CHECKPOINTS, job=run.name),
        views=evidence.views(run.folder / "views"),
        left=left,
        most_pods=watch.most_pods,
        gpu_seconds_told=status.get("gpuSeconds", 0.0),
        gpu_seconds_seen=watch.gpu_seconds,
    )


def _left(arena: KubeletArena) -> list[str]:
    run = arena.run
    maps = run.api.list(f"/api/v1/namespaces/{run.namespace}/configmaps")
    names = [entry["metadata"]["name"] for entry in maps]
    return [
        *run.left_behind(),
        *(f"job {run.name}" for _ in [run.api.find(paths.jobs(run.namespace, run.name))] if _),
        *(f"ConfigMap {name}" for name in names if name not in KEPT),
        *(f"{each.program or 'process'} of {each.pod}" for each in of_pods(arena.watch.uids)),
        *evidence.temporary_files(run.folder),
        *evidence.unfinished_checkpoints(run.folder / CHECKPOINTS),
    ]
