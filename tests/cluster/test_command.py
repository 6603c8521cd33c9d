"""`python -m tests.cluster up` and `down`: a node comes up, and goes without a trace."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import isolation
from tests.cluster.api import has_condition
from tests.cluster.cluster import open_cluster
from tests.cluster.components import HOST_FOLDERS, TUNABLES
from tests.cluster.fixtures import obstacle, required_or_skipped
from tests.cluster.layout import Level, default_state
from tests.cluster.lifecycle import is_machine_taken
from tests.cluster.pods import REPOSITORY, python_pod
from tests.cluster.test_control_plane import processes_of


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tests.cluster", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def machine():
    """What of a machine a node might change."""
    return {
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "links": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "routes": output_of("ip", "route"),
        "rules": output_of("nft", "list", "ruleset"),
        "namespaces": output_of("ip", "netns", "list"),
        "tunables": {name: Path("/proc/sys", name).read_text() for name in TUNABLES},
        "folders": [name for name in HOST_FOLDERS if Path(name).exists()],
    }


@pytest.mark.cluster
def test_a_node_goes_without_a_trace():
    if reason := obstacle(Level.NODE):
        required_or_skipped(reason)
    if is_machine_taken():
        pytest.skip("a node is up, this session's or another's, and there can be one at a time")
    before = machine()
    cluster = open_cluster(Path(command("up", "--gpus=0")))
    try:
        assert command("kubeconfig") == str(cluster.kubeconfig)
        pod = python_pod("left", "-c", "import signal; signal.pause()")
        api, path = cluster.admin(), "/api/v1/namespaces/default/pods"
        api.create(path, pod)
        api.wait(f"{path}/left", has_condition("Ready"), "not ready")
        running = processes_of(cluster.layout)
        assert machine() != before
        assert isolation.traces()
    finally:
        command("down")
    assert not any(process.is_alive() for process in running)
    assert machine() == before
    # None at all: those that a killed session had left before go with this node's.
    assert isolation.traces() == []
    assert not default_state(Level.NODE).exists()
    assert command("down") == ""
