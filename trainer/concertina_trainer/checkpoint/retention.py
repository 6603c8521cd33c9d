"""Which checkpoints are removed after a new one, and their removal.

Called by the writer of the leader after `latest` was moved. `obsolete` decides and is pure.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from concertina_api.errors import CheckpointInvalid
from concertina_trainer.checkpoint import format as fmt
from concertina_trainer.checkpoint.publish import folders, named, owner, read_latest, read_manifest
from concertina_trainer.checkpoint.storage import Storage

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A checkpoint folder as far as its removal depends on it."""

    name: fmt.FolderName
    sequence: int | None
    """Place in the order of checkpoints; None when the folder has no manifest."""
    idle_seconds: float = 0.0
    """Time since something was written into it."""


def obsolete(
    found: Iterable[Found], *, latest: fmt.FolderName, keep: int, abandoned_seconds: float
) -> list[fmt.FolderName]:
    """What to remove, oldest first.

    Complete ones beyond the newest `keep`, never the one that `latest` names. Incomplete ones that
    are older than it, or idle for longer than any save may take: an incomplete folder of a later
    step may be a save in progress, or be left from a history that a restart gave up.
    """
    candidates = list(found)
    complete = sorted(
        (item for item in candidates if item.sequence is not None and item.name != latest),
        key=lambda item: item.sequence or 0,
    )
    surplus = complete[: max(len(complete) - (keep - 1), 0)]
    unfinished = [
        item
        for item in candidates
        if item.sequence is None
        and item.name != latest
        and (item.name.step <= latest.step or item.idle_seconds > abandoned_seconds)
    ]
    return [item.name for item in unfinished + surplus]


def remove_obsolete(
    storage: Storage, *, job: str, keep: int, abandoned_seconds: float, beside: str | None = None
) -> None:
    """Remove what `obsolete` says from `storage`, but not the folder `beside`.

    Folders of other jobs and folders whose manifest cannot be read are left to their owners; when
    `latest` is another job's, so may be what has no manifest yet, and nothing is removed. Raises
    OSError.
    """
    latest = fmt.parse_folder_name(named(read_latest(storage)) or "")
    if latest is None or owner(storage) not in (None, job):
        return
    names = [name for name in folders(storage) if str(name) != beside]
    found = [item for name in names if (item := _look(storage, name, job=job))]
    for name in obsolete(found, latest=latest, keep=keep, abandoned_seconds=abandoned_seconds):
        logger.info("removing the checkpoint %s: the newest is %s, %d are kept", name, latest, keep)
        storage.within(str(name)).clear(first=fmt.MANIFEST)


def _look(storage: Storage, name: fmt.FolderName, *, job: str) -> Found | None:
    folder = storage.within(str(name))
    try:
        manifest = read_manifest(folder)
    except CheckpointInvalid:
        return None
    except FileNotFoundError:
        return Found(name=name, sequence=None, idle_seconds=folder.idle_seconds())
    return Found(name=name, sequence=manifest.sequence) if manifest.identity.job == job else None
