"""Nodes that KWOK imagines: pods bound to them run at once and do nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.cluster.api import Api, has_condition
from tests.cluster.components import GPU

ANNOTATION = {"kwok.x-k8s.io/node": "fake"}


@contextmanager
def fake_nodes(
    api: Api, count: int, *, gpus: int = 8, prefix: str = "fake", seconds: float = 60.0
) -> Iterator[tuple[str, ...]]:
    """The names of ready nodes, `<prefix>-<n>`, which are deleted in the end.

    Their pods follow them by the pod garbage collector, some time later.
    """
    names = tuple(f"{prefix}-{number}" for number in range(count))
    try:
        for name in names:
            api.create("/api/v1/nodes", _node(name, gpus=gpus))
        for name in names:
            path = f"/api/v1/nodes/{name}"
            api.wait(path, has_condition("Ready"), f"{name} is not ready", seconds=seconds)
        yield names
    finally:
        for name in names:
            api.delete(f"/api/v1/nodes/{name}")


def _node(name: str, *, gpus: int) -> dict[str, Any]:
    amounts = {"cpu": "64", "memory": "512Gi", "pods": "110", GPU: str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": ANNOTATION,
            "labels": {"type": "kwok", "kubernetes.io/hostname": name},
        },
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux"},
        },
    }
