"""Says whether checkpoints outlive the pods that write them.

Called by the reconcile for the condition CheckpointDurable. Pure: no I/O, no clock.
"""

import posixpath
from typing import Final

from concertina_api.v1alpha1 import JobSpec
from concertina_operator.cluster.environment import RUN_PATH
from concertina_operator.cluster.template import Mount, read_template

_POD_LIVED: Final = frozenset(
    {"configMap", "downwardAPI", "emptyDir", "ephemeral", "image", "projected", "secret"}
)
"""Kinds of volumes that end with their pod, or that nobody can write."""


def checkpoint_warning(spec: JobSpec) -> str | None:
    """Why checkpoints would be lost with a pod; None when a volume that outlives it covers them.

    Asks for a template without faults.
    """
    # A relative path lies in the run's folder, which is the pod's own unless a volume is there.
    path = posixpath.normpath(posixpath.join(RUN_PATH, spec.checkpoint.path))
    pod = read_template(spec).spec
    mounts = [
        mount
        for mount in (pod.trainer.volume_mounts if pod.trainer else ())
        if _covers(mount, path)
    ]
    if not mounts:
        return f"no volume is mounted at checkpoint.path {path}: checkpoints end with the pod"
    covering = max(mounts, key=lambda mount: len(posixpath.normpath(mount.mount_path)))
    if covering.read_only:
        return f"checkpoint.path {path} is on the volume {covering.name}, which is mounted readOnly"
    volume = next((entry for entry in pod.volumes if entry.get("name") == covering.name), {})
    if (volume.get("persistentVolumeClaim") or {}).get("readOnly"):
        return f"checkpoint.path {path} is on the volume {covering.name}, whose claim is readOnly"
    kind = next((key for key in volume if key in _POD_LIVED), None)
    if kind is None and set(volume) != {"name"}:
        return None
    return (
        f"checkpoint.path {path} is on the volume {covering.name} of kind {kind or 'emptyDir'},"
        " which ends with the pod or cannot be written"
    )


def _covers(mount: Mount, path: str) -> bool:
    folder = posixpath.normpath(mount.mount_path)
    return folder.startswith("/") and posixpath.commonpath((folder, path)) == folder
