"""The harness itself, at the level without a kubelet."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.api import ApiFailure, has_condition, wait_for
from tests.cluster.build import binaries
from tests.cluster.cluster import ClusterFailure, open_cluster
from tests.cluster.fake_nodes import fake_nodes
from tests.cluster.fixtures import control_plane_of_its_own
from tests.cluster.layout import Layout, Level, free_ports, read_layout, write_layout
from tests.cluster.lifecycle import start, stop
from tests.cluster.processes import Process


def a_pod(name="sleeper", **spec):
    container = {"name": "main", "image": "imagined"}
    return {"metadata": {"name": name}, "spec": {"containers": [container], **spec}}


def test_a_pod_on_an_imagined_node_runs(control_plane, namespace):
    api, path = control_plane.admin(), f"/api/v1/namespaces/{namespace}/pods"
    limits = {"resources": {"limits": {"nvidia.com/gpu": "8"}}}
    with fake_nodes(api, 2, gpus=8) as names:
        for number in range(2):
            pod = a_pod(f"sleeper-{number}")
            pod["spec"]["containers"][0] |= limits
            api.create(path, pod)
        for number in range(2):
            api.wait(f"{path}/sleeper-{number}", has_condition("Ready"), "not ready")
        assert {pod["spec"]["nodeName"] for pod in api.list(path)} == set(names)
        for number in range(2):
            api.delete(f"{path}/sleeper-{number}", gracePeriodSeconds=0)
            api.wait_gone(f"{path}/sleeper-{number}")
    left = {node["metadata"]["name"] for node in api.list("/api/v1/nodes")}
    assert left.isdisjoint(names)


def test_says_who_is_refused_and_why(control_plane, namespace, tmp_path):
    kubeconfig = control_plane.service_account_kubeconfig(
        tmp_path / "config", namespace=namespace, name="default"
    )
    with pytest.raises(ApiFailure) as caught:
        open_cluster(kubeconfig).admin().list("/api/v1/nodes")
    assert (caught.value.status, caught.value.reason) == (403, "Forbidden")
    assert f"system:serviceaccount:{namespace}:default" in caught.value.message


def test_records_who_asked_for_what(control_plane, namespace, tmp_path):
    kubeconfig = control_plane.service_account_kubeconfig(
        tmp_path / "config", namespace=namespace, name="default"
    )
    control_plane.run_kubectl("get", "pods", kubeconfig=kubeconfig, check=False)
    account = f"system:serviceaccount:{namespace}:default"
    asked = [
        (event["verb"], event["objectRef"]["resource"])
        for event in control_plane.audit_events()
        # Questions about what there is are of no object.
        if event["user"]["username"] == account and "objectRef" in event
    ]
    assert asked == [("list", "pods")]


def test_kubectl_is_of_the_version_of_the_server(control_plane):
    lines = control_plane.run_kubectl("version").stdout.splitlines()
    versions = {line.split(": ")[0]: line.split(": ")[1] for line in lines}
    assert versions["Client Version"] == versions["Server Version"] == "v1.36.3"
    with pytest.raises(ClusterFailure, match="nonsense"):
        control_plane.run_kubectl("nonsense")


@pytest.mark.cluster
def test_an_api_server_can_be_stopped_frozen_and_started_again():
    with control_plane_of_its_own() as cluster:
        api = cluster.admin()
        api.create("/api/v1/namespaces", {"metadata": {"name": "kept"}})
        cluster.order("kube-apiserver", "stop")
        with pytest.raises((OSError, http.client.HTTPException)):
            api.get("/readyz")
        cluster.order("kube-apiserver", "start")
        api.wait("/api/v1/namespaces/kept", bool, "the server does not come back")
        cluster.order("kube-apiserver", "freeze")
        hasty = type(api)(cluster.kubeconfig, timeout_seconds=0.5)
        with pytest.raises(TimeoutError):
            hasty.get("/api/v1/namespaces/kept")
        cluster.order("kube-apiserver", "thaw")
        assert api.get("/api/v1/namespaces/kept")["metadata"]["name"] == "kept"


def started_as_owner(state):
    """A control plane of its own, which ends when the descriptor beside it is closed."""
    layout = Layout(level=Level.CONTROL_PLANE, state=state, binaries=binaries(), ports=free_ports())
    theirs, ours = os.pipe()
    start(layout, owner=theirs)
    os.close(theirs)
    return layout, ours


def test_ends_with_its_owner_and_leaves_no_process(control_plane, tmp_path):
    layout, ours = started_as_owner(tmp_path / "state")
    started = processes_of(layout)
    assert len(started) == 5  # the supervisor and four servers
    os.close(ours)
    wait_for(lambda: not any(each.is_alive() for each in started), lambda: f"{started} stay")
    stop(layout.state)
    assert not layout.state.exists()


def schedulers(layout):
    """Process ids."""
    found = set()
    for each in processes_of(layout):
        with contextlib.suppress(FileNotFoundError):
            program = Path(f"/proc/{each.pid}/cmdline").read_bytes().split(b"\0")[0]
            found |= {each.pid} if program.endswith(b"/kube-scheduler") else set()
    return found


def test_a_component_that_gives_up_is_started_again(control_plane, tmp_path):
    layout, ours = started_as_owner(tmp_path / "state")
    (gone,) = schedulers(layout)
    os.kill(gone, signal.SIGKILL)
    wait_for(lambda: schedulers(layout) - {gone}, lambda: "no scheduler runs")
    os.close(ours)
    wait_for(lambda: not processes_of(layout), lambda: "processes stay")
    stop(layout.state)


def test_says_which_component_failed_and_what_it_said(control_plane, tmp_path):
    layout = Layout(
        level=Level.CONTROL_PLANE,
        state=tmp_path / "state",
        binaries=binaries(),
        ports=free_ports(),
        queries_per_second=-1,
    )
    broken = tmp_path / "binaries"
    broken.mkdir()
    for path in binaries().iterdir():
        (broken / path.name).symlink_to(path)
    (broken / "etcd").unlink()
    (broken / "etcd").write_text("#!/bin/sh\necho no room for data\nexit 3\n")
    (broken / "etcd").chmod(0o755)
    with pytest.raises(ClusterFailure, match=r"etcd ended with 3\n +no room for data"):
        start(read_layout(write_layout(layout).replace(str(layout.binaries), str(broken))))
    assert not layout.state.exists()


def test_never_removes_a_folder_that_is_not_a_clusters(control_plane, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    layout = Layout(level=Level.CONTROL_PLANE, state=tmp_path, binaries=binaries())
    with pytest.raises(ClusterFailure, match="holds other things"):
        start(layout)
    assert (tmp_path / "thesis.txt").exists()


def processes_of(layout):
    """The living processes whose command line names this cluster's folder."""
    found = subprocess.run(
        [sys.executable, "-c", PROCESSES, str(layout.state)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [process for process in map(Process.find, map(int, found)) if process]


PROCESSES = """
import os, pathlib, sys
for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
        if sys.argv[1] in path.read_text() and int(path.parent.name) != os.getpid():
            print(path.parent.name)
    except OSError:
        pass
"""
