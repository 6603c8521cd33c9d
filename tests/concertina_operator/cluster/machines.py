"""Nodes that nobody runs but that the real scheduler places pods on, and pods that ask for them."""

from datetime import UTC, datetime
from typing import Any

from tests.cluster.api import Api

GPU = "nvidia.com/gpu"


def add_node(api: Api, name: str, *, gpus: int, **labels: str) -> None:
    """A node that says once that it is ready; its pods stay until somebody deletes them."""
    amounts = {"cpu": "8", "memory": "8Gi", "pods": "10", GPU: str(gpus)}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "Test"}
    ready |= {"lastHeartbeatTime": now, "lastTransitionTime": now}
    path = f"/api/v1/nodes/{name}"
    api.create("/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
    status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
    api.patch(f"{path}/status", {"status": status})
    api.wait(path, lambda node: not node["spec"].get("taints"), "nothing is scheduled there")


def placed_on(labels: dict[str, str], **spec: Any) -> dict[str, Any]:
    """A pod's spec that takes one GPU of a node with these labels."""
    container = {"name": "trainer", "image": "x", "resources": {"limits": {GPU: "1"}}}
    return {"nodeSelector": labels, "containers": [container], **spec}
