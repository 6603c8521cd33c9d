"""How a cluster is started and ended. Called by the fixtures and by the command line.

Everything that a cluster writes lies in one folder; its processes hang on one supervisor, and end
when that ends.
"""

import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import isolation
from tests.cluster.api import has_condition, wait_for
from tests.cluster.build import STAGES
from tests.cluster.certificates import write_identities
from tests.cluster.cluster import Cluster, ClusterFailure, wait_for_namespace
from tests.cluster.components import GPU, steps
from tests.cluster.documents import (
    BASE_IMAGE,
    PAUSE_IMAGE,
    configuration,
    image_archive,
    kwok_options,
)
from tests.cluster.layout import (
    LAYOUT,
    NODE_NAME,
    PREFIX,
    Layout,
    Level,
    read_layout,
    write_layout,
)
from tests.cluster.processes import Process, reap

START_SECONDS = 180.0
FOLDER = Path(__file__).parent
ROOT = "root.json"
"""The file that names the process on which all others hang."""
NAMESPACES = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


class MachineTaken(ClusterFailure):
    """Another node runs, or is being started, on this machine."""


def start(layout: Layout, *, owner: int | None = None, patience_seconds: float = 0.0) -> Cluster:
    """Start a cluster in a folder, after ending what an earlier start left there.

    Args:
        layout: What to start.
        owner: A descriptor of the read end of a pipe: the cluster ends when the other end closes.
            None: it ends by `stop` alone.
        patience_seconds: How long to wait for another node on this machine to end.

    Raises:
        ClusterFailure: it does not come up; nothing of it is left then.
    """
    with _machine(layout, patience_seconds=patience_seconds) as lock:
        _end_processes(layout.state)
        _remove(layout.state)
        try:
            _write_files(layout)
            _launch(layout, owner=owner, lock=lock)
            cluster = Cluster(
                kubeconfig=layout.kubeconfig("admin"),
                url=layout.url,
                kubectl=layout.binaries / "kubectl",
                layout=layout,
            )
            _wait_usable(cluster, layout)
        except BaseException:
            _end_processes(layout.state)
            _remove(layout.state)
            raise
    return cluster


def stop(state: Path) -> None:
    """End the cluster of this folder and remove all that it left; nothing happens without one."""
    if not (state / LAYOUT).exists():
        return
    layout = read_layout((state / LAYOUT).read_text())
    _end_processes(state)
    try:
        with _machine(layout, patience_seconds=0):
            _remove(state)
    except MachineTaken:
        return  # by one that waited for this end: it removes what was left before it starts


def sweep() -> None:
    """Remove the folders of control planes whose session was killed."""
    for state in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        root = root_of(state)
        if root is not None and not root.is_alive():
            _remove(state)


def is_machine_taken() -> bool:
    """Whether a node runs on this machine, whoever started it."""
    try:
        with _node_lock(patience_seconds=0):
            return False
    except MachineTaken:
        return True


def root_of(state: Path) -> Process | None:
    """The process on which all others of the cluster in this folder hang; None before its start."""
    try:
        pid, started = json.loads((state / ROOT).read_text())
    except FileNotFoundError:
        return None
    return Process(pid=pid, started=started)


def _end_processes(state: Path) -> None:
    root = root_of(state)
    # Below a node's root is process 1 of its PID namespace: the kernel ends all in it first.
    processes = [] if root is None else [*root.children(), root]
    for process in processes:
        process.kill()
    for process in processes:
        wait_for(lambda one=process: not one.is_alive(), lambda one=process: f"{one} stays")
    if root is not None:
        reap(root.pid)


def _remove(state: Path) -> None:
    """Remove what ended processes left, but never a folder that is not a cluster's."""
    if (state / LAYOUT).exists():
        isolation.clear(state)
        shutil.rmtree(state)


@contextmanager
def _machine(layout: Layout, *, patience_seconds: float) -> Iterator[int | None]:
    """The right to start or remove such a cluster; a control plane needs none."""
    if layout.level is Level.CONTROL_PLANE:
        yield None
        return
    with _node_lock(patience_seconds=patience_seconds) as lock:
        yield lock


@contextmanager
def _node_lock(*, patience_seconds: float) -> Iterator[int]:
    """The one lock of this machine's nodes, which a supervisor keeps while it runs."""
    path = Path("/run/concertina-node.lock")  # one for all users and temporary folders
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + patience_seconds
        while not _locked(lock):
            if time.monotonic() >= deadline:
                raise MachineTaken(
                    "another node runs on this machine: end it with `python -m tests.cluster down`,"
                    " or wait for the tests that started it"
                )
            time.sleep(0.2)
        yield lock
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_files(layout: Layout) -> None:
    state = layout.state
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(state.iterdir()):
        raise ClusterFailure(f"{state} holds other things than a cluster's")
    (state / LAYOUT).write_text(write_layout(layout))
    for name in ("log", "orders", "cni", "images"):
        (state / name).mkdir()
    for name, text in configuration(layout).items():
        (state / name).write_text(text)
    stages = (layout.binaries / STAGES).read_text()
    (state / "kwok.yaml").write_text(f"{json.dumps(kwok_options())}\n---\n{stages}")
    planned = steps(layout, python=sys.executable, folder=str(FOLDER))
    (state / "steps.json").write_text(json.dumps(planned, indent=1))
    write_identities(layout)
    if layout.level is Level.NODE:
        pause = {"pause": (layout.binaries / "pause").read_bytes()}
        for image, programs in ((PAUSE_IMAGE, pause), (BASE_IMAGE, {})):
            archive = image_archive(image, programs=programs)
            (state / "images" / f"{image.name}.tar").write_bytes(archive)


def _launch(layout: Layout, *, owner: int | None, lock: int | None) -> None:
    """Start the supervisor, in a session of its own, and connect its network if it has one."""
    state = layout.state
    mode = "detached" if owner is None else "attached"
    argv = [sys.executable, "-I", str(FOLDER / "supervisor.py"), str(state), mode]
    if layout.level is Level.NODE:
        argv = [*NAMESPACES, *argv]
        isolation.prepare(state)
    log = str(state / "log" / "supervisor.log")
    stdin: tuple = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    if owner is not None:
        stdin = (os.POSIX_SPAWN_DUP2, owner, 0)
    output = (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if lock is not None:
        os.set_inheritable(lock, True)
    pid = os.posix_spawnp(
        argv[0],
        argv,
        os.environ,
        file_actions=[stdin, output, (os.POSIX_SPAWN_DUP2, 1, 2)],
        setsid=True,
    )
    if lock is not None:
        os.set_inheritable(lock, False)
    root = Process.find(pid)
    if root is not None:
        (state / ROOT).write_text(json.dumps([root.pid, root.started]))
    if layout.level is Level.NODE:
        wait_for(lambda: _progress(state, root), lambda: "the namespaces are not there")
        isolation.connect(pid)


def _progress(state: Path, root: Process | None) -> bool:
    """Whether the supervisor has started.

    Raises:
        ClusterFailure: it ended, or what it started did.
    """
    if (state / "failed").exists():
        raise ClusterFailure((state / "failed").read_text())
    if root is None or not root.is_alive():
        words = (state / "log" / "supervisor.log").read_text()[-2000:]
        raise ClusterFailure(f"the supervisor has ended: {words}")
    return (state / "started").exists()


def _wait_usable(cluster: Cluster, layout: Layout) -> None:
    """Wait until pods can be created, and on a node until they can run."""
    state, root = layout.state, root_of(layout.state)
    wait_for(
        lambda: _progress(state, root) and (state / "ready").exists(),
        lambda: f"the steps are not done; see {state / 'log'}",
        START_SECONDS,
    )
    api = cluster.admin()
    if layout.level is Level.NODE:
        path = f"/api/v1/nodes/{NODE_NAME}"
        api.wait(path, has_condition("Ready"), "the node is not ready", seconds=START_SECONDS)
        if layout.gpus:
            want = str(layout.gpus)
            api.wait(
                path,
                lambda node: node["status"]["allocatable"].get(GPU) == want,
                f"{want} GPUs are not allocatable",
            )
    wait_for_namespace(api, "default")
    api.close()
