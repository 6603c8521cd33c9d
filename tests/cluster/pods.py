"""Pods that run this very Python and this repository on the real node, without an image of them.

Pure. The interpreter, the virtual environment, the repository and /usr of the machine are mounted
at their own paths into an image that is empty.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.components import GPU
from tests.cluster.documents import BASE_IMAGE

REPOSITORY = Path(__file__).parents[2]
NO_DNS = {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["127.0.0.1"]}}
"""A cluster without DNS: a name server that refuses at once, not one that never answers."""


def python_template(
    *, gpus: int = 1, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A pod template whose container `trainer` can run `sys.executable`; it has no command."""
    folders = _folders()
    variables = {"PYTHONPATH": _import_path(), "OMP_NUM_THREADS": "1", **(environment or {})}
    container: dict[str, Any] = {
        "name": "trainer",
        "image": BASE_IMAGE.reference,
        "imagePullPolicy": "Never",
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "volumeMounts": [
            {"name": f"host-{number}", "mountPath": str(folder), "readOnly": True}
            for number, folder in enumerate(folders)
        ],
    }
    if gpus:
        container["resources"] = {"limits": {GPU: str(gpus)}}
    return {
        "metadata": {},
        "spec": {
            **NO_DNS,
            "containers": [container],
            "volumes": [
                {"name": f"host-{number}", "hostPath": {"path": str(folder)}}
                for number, folder in enumerate(folders)
            ],
        },
    }


def python_pod(name: str, *arguments: str, gpus: int = 0, **spec: Any) -> dict[str, Any]:
    """A pod that runs Python with these arguments; `spec` is laid over the pod's spec."""
    template = python_template(gpus=gpus)
    template["spec"]["containers"][0]["command"] = [sys.executable, *arguments]
    merged = {"restartPolicy": "Never", **template["spec"], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": merged}


def _folders() -> tuple[Path, ...]:
    """What is mounted; none lies within another."""
    wanted = {Path("/usr"), Path(sys.base_prefix), Path(sys.prefix), REPOSITORY}
    return tuple(sorted(one for one in wanted if not any(other in one.parents for other in wanted)))


def _import_path() -> str:
    return ":".join(str(REPOSITORY / name) for name in ("operator", "trainer", ""))
