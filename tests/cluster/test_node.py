"""The harness itself, at the level of a real node."""

from tests.cluster.api import has_condition
from tests.cluster.pods import python_pod

READY_WITH_TORCH = """
import os, pathlib, time, torch
import concertina_trainer
print(torch.__version__, os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
pathlib.Path("/tmp/ready").touch()
time.sleep(600)
"""
ASK_API_SERVER = """
import pathlib, ssl, urllib.request
account = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
request = urllib.request.Request(
    "https://10.97.0.1/version",
    headers={"Authorization": f"Bearer {(account / 'token').read_text()}"},
)
context = ssl.create_default_context(cafile=account / "ca.crt")
print(urllib.request.urlopen(request, context=context, timeout=20).status)
"""
GREET = """
import socketserver
class Greeter(socketserver.BaseRequestHandler):
    def handle(self): self.request.sendall(b"hello from a pod")
socketserver.TCPServer(("0.0.0.0", 8000), Greeter).serve_forever()
"""
HEAR = """
import socket, sys, time
deadline = time.monotonic() + 30
while True:
    try:
        print(socket.create_connection((sys.argv[1], 8000), timeout=1).recv(100).decode())
        break
    except OSError:
        if time.monotonic() > deadline: raise
        time.sleep(0.1)
"""
END = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); signal.pause()"


def has_ended(pod):
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def test_a_pod_of_this_python_is_ready_with_torch_and_its_gpus(node_cluster, node_namespace):
    api, path = node_cluster.admin(), f"/api/v1/namespaces/{node_namespace}/pods"
    pod = python_pod("trainer", "-c", READY_WITH_TORCH, gpus=2, terminationGracePeriodSeconds=0)
    probe = {"exec": {"command": ["/usr/bin/test", "-e", "/tmp/ready"]}, "periodSeconds": 1}
    pod["spec"]["containers"][0]["readinessProbe"] = probe
    api.create(path, pod)
    api.wait(f"{path}/trainer", has_condition("Ready"), "not ready", seconds=120)
    said = node_cluster.run_kubectl("logs", "trainer", f"--namespace={node_namespace}").stdout
    version, devices = said.split()
    assert version.startswith("2.")
    assert len(set(devices.split(","))) == 2
    api.delete(f"{path}/trainer")
    api.wait_gone(f"{path}/trainer")


def test_pods_reach_the_api_server_and_each_other(node_cluster, node_namespace):
    api, path = node_cluster.admin(), f"/api/v1/namespaces/{node_namespace}/pods"
    api.create(path, python_pod("greeter", "-c", GREET, terminationGracePeriodSeconds=0))
    greeter = api.wait(
        f"{path}/greeter", lambda pod: pod["status"].get("podIP"), "the greeter has no address"
    )
    api.create(path, python_pod("asker", "-c", ASK_API_SERVER))
    api.create(path, python_pod("hearer", "-c", HEAR, greeter))
    for name, want in (("asker", "200"), ("hearer", "hello from a pod")):
        api.wait(f"{path}/{name}", has_ended, "it does not end")
        logs = node_cluster.run_kubectl("logs", name, f"--namespace={node_namespace}")
        assert logs.stdout.strip() == want


def test_a_deleted_pod_is_told_and_has_its_grace(node_cluster, node_namespace):
    api, path = node_cluster.admin(), f"/api/v1/namespaces/{node_namespace}/pods"
    pod = python_pod("polite", "-c", END)
    # Held by a finalizer, it can be looked at after its end.
    pod["metadata"]["finalizers"] = ["concertina.test/look"]
    api.create(path, pod)
    api.wait(f"{path}/polite", has_condition("Ready"), "not ready")
    api.delete(f"{path}/polite")
    ended = api.wait(
        f"{path}/polite",
        lambda pod: pod["status"]["containerStatuses"][0]["state"].get("terminated"),
        "its end is not reported",
    )
    api.patch(f"{path}/polite", {"metadata": {"finalizers": None}})
    api.wait_gone(f"{path}/polite")
    assert ended["exitCode"] == 7
