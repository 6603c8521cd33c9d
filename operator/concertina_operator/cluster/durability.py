"""Says whether checkpoints outlive the pods that write them, and whether all pods see them.

Called by the reconcile for the condition CheckpointDurable, and by pod.py, which tells the trainer
whether pods share storage. Pure: no I/O, no clock.
"""

import posixpath
from collections.abc import Mapping
from typing import Any, Final

from concertina_api.location import scheme
from concertina_api.v1alpha1 import JobSpec
from concertina_operator.cluster.environment import RUN_PATH
from concertina_operator.cluster.template import Mount, read_template

_POD_OWNED: Final = frozenset({"emptyDir", "ephemeral"})
"""Kinds of volumes that each pod has for itself and that end with it."""
_NEVER_WRITTEN: Final = frozenset({"configMap", "downwardAPI", "image", "projected", "secret"})
"""Kinds of volumes that nobody can write."""


def checkpoint_warning(spec: JobSpec) -> str | None:
    """Why checkpoints would be lost with a pod; None when what holds them outlives it.

    That is an object storage, or a volume. Asks for a template without faults.
    """
    if scheme(spec.checkpoint.path) is not None:
        return None
    why = _why_not_durable(spec)
    if why is None or shares_storage(spec):
        return why
    return f"{why}; nothing is saved while several pods train"


def shares_storage(spec: JobSpec) -> bool:
    """Whether all pods may see one folder of checkpoints; False when each surely has its own.

    What cannot be written counts as shared: the last save is then tried, and fails in words.
    So does hostPath: nodes often mount one file system there, and where they do not the last save
    of several pods fails as well. Asks for a template without faults.
    """
    if scheme(spec.checkpoint.path) is not None:
        return True
    mount, volume = _covering(spec, _folder(spec))
    if mount is None:
        return False
    if _is_only_read(mount, volume):
        return True
    return mount.sub_path_expr is None and _kind(volume) not in _POD_OWNED


def _why_not_durable(spec: JobSpec) -> str | None:
    path = _folder(spec)
    mount, volume = _covering(spec, path)
    if mount is None:
        return f"no volume is mounted at checkpoint.path {path}: checkpoints end with the pod"
    where = f"checkpoint.path {path} is on the volume {mount.name}"
    if mount.read_only:
        return f"{where}, which is mounted readOnly"
    if _is_only_read(mount, volume) and _kind(volume) not in _NEVER_WRITTEN:
        return f"{where}, whose claim is readOnly"
    if _kind(volume) in _POD_OWNED | _NEVER_WRITTEN:
        return f"{where} of kind {_kind(volume)}, which ends with the pod or cannot be written"
    if mount.sub_path_expr is not None:
        return (
            f"{where}, mounted with subPathExpr {mount.sub_path_expr}, by which each pod has a"
            " folder of its own: subPath gives all pods the same"
        )
    return None


def _folder(spec: JobSpec) -> str:
    # A relative path lies in the run's folder, which is the pod's own unless a volume is there.
    return posixpath.normpath(posixpath.join(RUN_PATH, spec.checkpoint.path))


def _covering(spec: JobSpec, path: str) -> tuple[Mount | None, Mapping[str, Any]]:
    """The mount that a path of the trainer lies on, and its volume: (None, {}) without any."""
    pod = read_template(spec).spec
    mounts = pod.trainer.volume_mounts if pod.trainer else ()
    mount = max(
        (mount for mount in mounts if _covers(mount, path)),
        key=lambda mount: len(posixpath.normpath(mount.mount_path)),
        default=None,
    )
    if mount is None:
        return None, {}
    return mount, next((entry for entry in pod.volumes if entry.get("name") == mount.name), {})


def _covers(mount: Mount, path: str) -> bool:
    folder = posixpath.normpath(mount.mount_path)
    return folder.startswith("/") and posixpath.commonpath((folder, path)) == folder


def _kind(volume: Mapping[str, Any]) -> str | None:
    """The volume's kind; one that names none is an emptyDir, and None is one without an entry."""
    kind = next((key for key in volume if key != "name"), None)
    return "emptyDir" if kind is None and volume else kind


def _is_only_read(mount: Mount, volume: Mapping[str, Any]) -> bool:
    claim = volume.get("persistentVolumeClaim") or {}
    return mount.read_only or bool(claim.get("readOnly")) or _kind(volume) in _NEVER_WRITTEN
