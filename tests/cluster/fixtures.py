"""The pytest fixtures of test clusters, imported by `tests/conftest.py`.

`control_plane` and `node_cluster` live for the session and end with it, however it ends. A cluster
that CONCERTINA_TEST_KUBECONFIG names is used instead of both, unless Concertina is installed there.
Where there can be none, tests are skipped with the reason, or fail with it where
CONCERTINA_REQUIRE_CLUSTER is 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from concertina_operator.cluster.install import install_objects
from concertina_operator.cluster.rights import trainer_binding
from tests.cluster.build import REQUIRED, binaries, missing
from tests.cluster.cluster import Cluster, open_cluster, wait_for_namespace
from tests.cluster.layout import PREFIX, Layout, Level, default_state, free_ports
from tests.cluster.lifecycle import NAMESPACES, start, stop, sweep
from tests.cluster.packages import missing_packages
from tests.cluster.tools import CONTROL_PLANE, TOOLS
from tests.concertina_operator.cluster.installed import path_of

FOREIGN = "CONCERTINA_TEST_KUBECONFIG"
INSTALLED = (
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/adaptivetrainingjobs.concertina.dev"
)
TESTS = "tests"
"""The use of the folder of the session's node: `down` on the command line leaves it alone."""
NODE_GPUS = 8
PATIENCE_SECONDS = 240.0
"""For another session's node to end; less than the time that one test may take."""


@pytest.fixture(scope="session")
def control_plane() -> Iterator[Cluster]:
    """An API server with its controllers and KWOK; no pod runs, but on KWOK's nodes it seems so."""
    with _foreign_or_own(Level.CONTROL_PLANE, control_plane_of_its_own()) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def node_cluster() -> Iterator[Cluster]:
    """A cluster of one real node with eight imagined GPUs."""
    with _foreign_or_own(Level.NODE, node_of_its_own(audit=True)) as cluster:
        yield cluster


@pytest.fixture
def namespace(control_plane: Cluster) -> Iterator[str]:
    """A namespace on the control plane that is this test's alone."""
    with fresh_namespace(control_plane) as name:
        yield name


@pytest.fixture
def node_namespace(node_cluster: Cluster) -> Iterator[str]:
    """A namespace on the node's cluster that is this test's alone."""
    with fresh_namespace(node_cluster) as name:
        yield name


@contextmanager
def control_plane_of_its_own(
    *, queries_per_second: int = 200, audit: bool = True
) -> Iterator[Cluster]:
    """A control plane beside all others, for a test that stops parts of it."""
    sweep()
    state = Path(tempfile.mkdtemp(prefix=PREFIX))
    layout = Layout(
        level=Level.CONTROL_PLANE,
        state=state,
        binaries=binaries(),
        ports=free_ports(),
        kwok=True,
        audit=audit,
        queries_per_second=queries_per_second,
    )
    with _owned(layout) as cluster:
        yield cluster


@contextmanager
def node_of_its_own(*, audit: bool = False) -> Iterator[Cluster]:
    """A cluster of one real node; waits for another one on this machine to end."""
    state = default_state(Level.NODE, use=TESTS)
    layout = Layout(level=Level.NODE, state=state, binaries=binaries(), gpus=NODE_GPUS, audit=audit)
    with _owned(layout) as cluster:
        yield cluster


@contextmanager
def fresh_namespace(cluster: Cluster) -> Iterator[str]:
    """A new namespace in which pods can be created; its deletion is not waited for."""
    with closing(cluster.admin()) as api:
        made = api.create("/api/v1/namespaces", {"metadata": {"generateName": "test-"}})
        name = made["metadata"]["name"]
        wait_for_namespace(api, name)
    try:
        yield name
    finally:
        # By a new connection: the server ends one that idles through a long test.
        with closing(cluster.admin()) as api:
            api.delete(f"/api/v1/namespaces/{name}")


def obstacle(level: Level) -> str | None:
    """Why there can be no such cluster here; None if there can."""
    if not sys.platform.startswith("linux"):
        return f"a cluster needs Linux, not {sys.platform}"
    if shutil.which("openssl") is None:
        return "a cluster needs openssl"
    if absent := missing(CONTROL_PLANE if level is Level.CONTROL_PLANE else TOOLS):
        names = ", ".join(tool.name for tool in absent)
        go = "" if shutil.which("go") else ", with Go in PATH"
        return f"{names} not built: run `python -m tests.cluster.build`{go}"
    if level is Level.CONTROL_PLANE:
        return None
    if os.geteuid() != 0:
        return "a node needs root"
    if packages := missing_packages():
        return f"a node needs these packages: {' '.join(packages)}"
    tried = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"a node needs namespaces of its own: {tried.stderr.strip()}"
    return None


def required_or_skipped(reason: str) -> NoReturn:
    """End a test that can have no cluster."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{reason} ({REQUIRED} is 1)", pytrace=False)
    pytest.skip(reason)


@contextmanager
def _foreign_or_own(level: Level, own: AbstractContextManager[Cluster]) -> Iterator[Cluster]:
    """The cluster that was given, cleared in the end, or else one that starts now."""
    if foreign := _foreign(level):
        yield foreign
        _clear(foreign)
    else:
        with own as cluster:
            yield cluster


def _foreign(level: Level) -> Cluster | None:
    """The cluster that was given; None if one can be started; else the end of the test."""
    if given := os.environ.get(FOREIGN):
        return _spared(Path(given))
    if reason := obstacle(level):
        required_or_skipped(f"{reason}; or name a cluster in {FOREIGN}")
    return None


@cache
def _spared(kubeconfig: Path) -> Cluster:
    """The cluster, unless somebody works with what tests would write over."""
    cluster = open_cluster(kubeconfig)
    with closing(cluster.admin()) as api:
        if api.find(INSTALLED) is not None:
            required_or_skipped(
                f"Concertina is installed on the cluster of {FOREIGN}: {cluster.url}"
            )
    return cluster


def _clear(cluster: Cluster) -> None:
    """Take away what tests have installed on a cluster that outlives them."""
    with closing(cluster.admin()) as api:
        for entry in (*install_objects(image="none"), trainer_binding("default")):
            api.delete(path_of(entry))


@contextmanager
def _owned(layout: Layout) -> Iterator[Cluster]:
    """A cluster that ends here, and at the latest with this process."""
    theirs, ours = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, ours)
        try:
            cluster = start(layout, owner=theirs, patience_seconds=PATIENCE_SECONDS)
        finally:
            os.close(theirs)
        stack.callback(stop, layout.state)
        yield cluster
