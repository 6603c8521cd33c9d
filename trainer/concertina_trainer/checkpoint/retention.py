"""Which checkpoints are removed after a new one, and their removal.

Called by the writer of the leader after `latest` was moved. `obsolete` decides and is pure.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from concertina_api.errors import CheckpointInvalid
from concertina_trainer.checkpoint import format as fmt
from concertina_trainer.checkpoint.files import remove_folder
from concertina_trainer.checkpoint.publish import folders, owner, read_latest, read_manifest

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


def remove_obsolete(path: Path, *, job: str, keep: int, abandoned_seconds: float) -> None:
    """Remove what `obsolete` says from `path`.

    Folders of other jobs and folders whose manifest cannot be read are left to their owners; when
    `latest` is another job's, so may be what has no manifest yet, and nothing is removed. Raises
    OSError.
    """
    latest = fmt.parse_folder_name(read_latest(path) or "")
    if latest is None or owner(path) not in (None, job):
        return
    now = _storage_time(path)
    found = [item for name in folders(path) if (item := _look(path, name, job=job, now=now))]
    for name in obsolete(found, latest=latest, keep=keep, abandoned_seconds=abandoned_seconds):
        logger.info("removing the checkpoint %s: the newest is %s, %d are kept", name, latest, keep)
        remove_folder(path / str(name), first=fmt.MANIFEST)


def _storage_time(path: Path) -> float:
    """Now by the clock that dates the files in `path`, which may be another machine's.

    Without room for a file nothing is idle.
    """
    probe = path / ".clock"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return float("-inf")
    return now


def _look(path: Path, name: fmt.FolderName, *, job: str, now: float) -> Found | None:
    folder = path / str(name)
    try:
        manifest = read_manifest(folder)
    except CheckpointInvalid:
        return None
    except FileNotFoundError:
        try:
            idle = now - folder.stat().st_mtime
        except FileNotFoundError:
            return None
        return Found(name=name, sequence=None, idle_seconds=idle)
    return Found(name=name, sequence=manifest.sequence) if manifest.identity.job == job else None
