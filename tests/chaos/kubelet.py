"""A run on a real node under faults: what can be hit, and a watch on its pods.

Processes are those of the node, seen from outside of their namespaces. What is asked of the API
server may fail at any time here: the watch remembers what it was told last.
"""

import contextlib
import http.client
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concertina_operator.cluster import paths
from concertina_operator.cluster.environment import RUN_PATH
from concertina_operator.cluster.pod import JOB_LABEL
from concertina_trainer.agent.mailbox import WorkerStatus, worker_file
from tests.chaos import clock, disk
from tests.chaos.arena import Missed
from tests.chaos.evidence import step_rows
from tests.chaos.invariants import surviving
from tests.chaos.job import document
from tests.chaos.processes import Owned, of_pods
from tests.chaos.schedule import Fault, Strike, chosen
from tests.cluster.api import ApiFailure
from tests.cluster.cluster import Cluster
from tests.cluster.lifecycle import root_of
from tests.e2e.kubelet.operators import Operator
from tests.e2e.kubelet.runs import KubeletRun, applied

WATCH_SECONDS = 0.3
UNREACHABLE = (ApiFailure, OSError, http.client.HTTPException)
"""What a call may raise while the API server, or etcd behind it, is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A pod as the API server told of it last."""

    name: str
    uid: str
    ip: str
    holds_gpu: bool
    """From its placing on the node to the end of its trainer."""


class KubeletArena:
    """One applied job."""

    def __init__(
        self, run: KubeletRun, operator: "Restartable", *, clock_folder: Path | None
    ) -> None:
        self.run = run
        self.operator = operator
        self.cluster = run.cluster
        self.folder = run.folder
        self.clock_folder = clock_folder
        self.watch = Watch(run, operator)

    @contextmanager
    def operator_down(self) -> Iterator[str]:
        """kill -9 of the operator, which is started again in the end."""
        self.operator.kill()
        try:
            yield "the operator"
        finally:
            self.operator.revive()

    @contextmanager
    def component_down(self, name: str) -> Iterator[str]:
        """kill -9 of a component of the cluster, which is started again in the end."""
        self.cluster.order(name, "stop")
        try:
            yield name
        finally:
            self.cluster.order(name, "start")

    def samples(self) -> int:
        rows = surviving(step_rows(self.folder))
        return max((row["samples"] for row in rows), default=0)

    def is_over(self) -> bool:
        return self.watch.ending is not None

    def is_reachable(self) -> bool:
        """Whether the API server, and etcd behind it, answer."""
        try:
            self.run.status()
        except UNREACHABLE:
            return False
        return True

    # Whom to hit

    def processes(self, program: str) -> list[Owned]:
        """Agents or workers, in the order of their pods."""
        found = [each for each in of_pods(self.watch.uids) if each.program == program]
        return sorted(found, key=lambda each: each.pod)

    def workers(self) -> list[Owned]:
        """Those that train, in the order of their ranks."""
        ranks = {each.pod: self._rank(each) for each in self.processes("worker")}
        found = (each for each in self.processes("worker") if ranks.get(each.pod, -1) >= 0)
        return sorted(found, key=lambda each: ranks[each.pod])

    def worker(self, strike: Strike) -> Owned:
        return _hit(self.workers(), strike, "worker trains")

    def agent(self, strike: Strike) -> Owned:
        return _hit(self.processes("agent"), strike, "agent runs")

    def pod(self, strike: Strike) -> list[Owned]:
        """All processes of a pod, its agent first."""
        agent = self.agent(strike)
        return [agent, *(each for each in of_pods([agent.uid]) if each != agent)]

    def peer(self, agent: Owned) -> Seen:
        """A pod other than this agent's, which can be reached by the network."""
        others = [
            pod
            for pod in self.watch.pods.values()
            if pod.ip and pod.holds_gpu and pod.uid != agent.uid
        ]
        if not others:
            raise Missed("there is one pod alone")
        return others[0]

    def _rank(self, worker: Owned) -> int:
        path = worker_file(self.folder / "pods" / worker.pod / "mailbox", 0)
        with contextlib.suppress(OSError, ValueError):
            return WorkerStatus.model_validate_json(path.read_bytes()).rank
        return -1


class Watch:
    """Looks at the job and its pods all the time, and after the operator."""

    def __init__(self, run: KubeletRun, operator: "Restartable") -> None:
        self._run = run
        self._operator = operator
        self._stop = threading.Event()
        self.ending: str | None = None
        """`completed`, or why it failed; None before."""
        self.pods: Mapping[str, Seen] = {}
        """By name."""
        self.uids: set[str] = set()
        """Of all pods there ever were."""
        self.most_pods = 0
        self.gpu_seconds = 0.0
        self._looked = time.monotonic()
        self._thread = threading.Thread(target=self._look_on, name="watch")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _look_on(self) -> None:
        api = self._run.cluster.admin()
        while not self._stop.wait(WATCH_SECONDS):
            self._operator.tend()
            with contextlib.suppress(*UNREACHABLE):
                self._look(api)
            now = time.monotonic()
            held = sum(pod.holds_gpu for pod in self.pods.values())
            self.gpu_seconds += held * (now - self._looked)
            self._looked = now
        api.close()

    def _look(self, api: Any) -> None:
        run = self._run
        found = api.list(paths.pods(run.namespace), labelSelector=f"{JOB_LABEL}={run.name}")
        pods = {entry["metadata"]["name"]: _seen(entry) for entry in found}
        self.uids |= {pod.uid for pod in pods.values()}
        self.pods = pods
        # One that terminates, and has nothing to hand over, holds a place no more.
        placed = [e for e in found if not _is_over(e) and "deletionTimestamp" not in e["metadata"]]
        self.most_pods = max(self.most_pods, len(placed))
        job = api.find(paths.jobs(run.namespace, run.name)) or {}
        for entry in job.get("status", {}).get("conditions", ()):
            if entry["status"] == "True" and entry["type"] in ("Completed", "Failed"):
                completed = entry["type"] == "Completed"
                self.ending = "completed" if completed else f"failed: {entry['message']}"


class Restartable(Operator):
    """An operator that is started again without waiting until it leads, as the kubelet does it.

    One whose lease is lost, for want of an API server, ends by itself.
    """

    def __init__(self, kubeconfig: Path, log: Path) -> None:
        super().__init__(kubeconfig, log)
        self._one_at_a_time = threading.Lock()

    def kill(self) -> None:
        with self._one_at_a_time:
            super().kill()

    def revive(self) -> None:
        """Start it again after `kill`."""
        with self._one_at_a_time:
            if self._process is None:
                self._launch()

    def tend(self) -> None:
        """Start it again if it has ended by itself."""
        with self._one_at_a_time:
            if self._process is not None and self._process.poll() is not None:
                self._process = None
                self._launch()


@contextmanager
def kubelet_arena(
    cluster: Cluster, operator: Restartable, work: Path, strikes: Sequence[Strike]
) -> Iterator[KubeletArena]:
    """A job that was just applied, prepared for these strikes; it does not outlive the context."""
    faults = {strike.fault for strike in strikes}
    folder = work / "run"
    with ExitStack() as stack:
        folder.mkdir(parents=True)
        if faults & {Fault.FULL_DISK, Fault.SLOW_DISK}:
            stack.enter_context(disk.mounted(work / "disk.img", folder))
            stack.enter_context(_mounted_on_node(cluster, folder))
        clock_folder = folder / "clock" if Fault.CLOCK_STEP in faults else None
        if clock_folder is not None:
            clock.made(clock_folder)
        run = stack.enter_context(
            applied(
                cluster,
                operator,
                folder,
                document(views=f"{RUN_PATH}/views", checkpoints=f"{RUN_PATH}/checkpoints"),
                change=_changes(clock_folder),
            )
        )
        arena = KubeletArena(run, operator, clock_folder=clock_folder)
        stack.callback(arena.watch.stop)
        yield arena


def _changes(clock_folder: Path | None) -> Callable[[dict[str, Any]], None]:
    def change(pod: dict[str, Any]) -> None:
        if clock_folder is not None:
            (trainer,) = pod["containers"]
            variables = clock.variables(Path(RUN_PATH) / clock_folder.name)
            trainer["env"] += [{"name": name, "value": text} for name, text in variables.items()]

    return change


@contextmanager
def _mounted_on_node(cluster: Cluster, folder: Path) -> Iterator[None]:
    """The disk that is mounted here is mounted in the node's namespace too."""
    assert cluster.layout is not None
    root = root_of(cluster.layout.state)
    device = subprocess.run(
        ["findmnt", "--noheadings", "--output", "SOURCE", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # Its processes as well: umount looks itself up in /proc, which is theirs there.
    space = f"/proc/{root.pid}/ns"
    enter = ["nsenter", f"--mount={space}/mnt", f"--pid={space}/pid_for_children"]
    subprocess.run([*enter, "mount", "-o", "noatime", device, str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run([*enter, "umount", "--lazy", str(folder)], check=True)


def _seen(pod: Mapping[str, Any]) -> Seen:
    return Seen(
        name=pod["metadata"]["name"],
        uid=pod["metadata"]["uid"],
        ip=pod["status"].get("podIP", ""),
        holds_gpu=bool(pod["spec"].get("nodeName")) and not _is_over(pod),
    )


def _is_over(pod: Mapping[str, Any]) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def _hit(candidates: Sequence[Owned], strike: Strike, what: str) -> Owned:
    found = chosen(candidates, target=strike.target)
    if found is None:
        raise Missed(f"no {what}")
    return found
