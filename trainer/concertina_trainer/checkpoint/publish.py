"""One save, step by step: each rank writes its part, the leader makes the set a checkpoint.

Called by the writer's thread; plain functions without threads or collectives. Every step leaves
the folder of checkpoints usable: an older checkpoint is removed only when a newer one is
complete and `latest` names it.
"""

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from concertina_api.errors import CheckpointInvalid, ConcertinaError
from concertina_trainer.checkpoint import format as fmt
from concertina_trainer.checkpoint.files import remove_folder, replace, replace_from, sync_folder
from concertina_trainer.checkpoint.parts import written_by
from concertina_trainer.checkpoint.tensor_file import write_tensors
from concertina_trainer.sharding.state import Entry, Holding

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.5


class SaveDropped(ConcertinaError):
    """This save will not become a checkpoint; the next one may."""


def write_part(
    path: Path, holding: Holding, *, identity: fmt.Identity, proceed: Callable[[], None]
) -> None:
    """Write the tensors of one rank and then the report that they are there.

    `proceed` raises to stop in the middle. Raises OSError, ValueError.
    """
    folder = path / identity.folder
    folder.mkdir(parents=True, exist_ok=True)
    rank = holding.rank
    # A report of an earlier try at the same state would speak for a file that is being replaced.
    (folder / fmt.report_name(rank)).unlink(missing_ok=True)
    written = write_tensors(
        folder / fmt.tensor_file_name(rank),
        specs=written_by(holding.entries.values(), world_size=holding.world_size, rank=rank),
        tensor=holding.tensors.__getitem__,
        metadata=identity.metadata(rank),
        proceed=proceed,
    )
    report = fmt.RankReport(
        identity=identity, rank=rank, file=fmt.StoredFile.of(written, rank=rank)
    )
    _put_report(folder, report)


def report_failure(path: Path, *, identity: fmt.Identity, rank: int, reason: str) -> None:
    """Tell the leader not to wait for this rank, and take away what it wrote. Never raises."""
    folder = path / identity.folder
    with contextlib.suppress(OSError):
        (folder / fmt.tensor_file_name(rank)).unlink(missing_ok=True)
    report = fmt.RankReport(identity=identity, rank=rank, failure=reason[:512])
    # Without storage nobody can be told; then the leader's deadline drops the set.
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        _put_report(folder, report)


def collect(
    path: Path, *, identity: fmt.Identity, pause: Callable[[list[int]], None]
) -> tuple[fmt.StoredFile, ...]:
    """Wait for the reports of all ranks; their files by rank.

    `pause` is called with the missing ranks between two looks and raises when waiting is over.
    Raises SaveDropped when a rank reports that it has failed.
    """
    folder = path / identity.folder
    files: dict[int, fmt.StoredFile] = {}
    while True:
        for rank in range(identity.world_size):
            if rank not in files:
                report = _read_report(folder / fmt.report_name(rank))
                if report is not None and report.identity == identity and report.rank == rank:
                    if report.file is None:
                        raise SaveDropped(f"rank {rank} could not save: {report.failure}")
                    files[rank] = report.file
        missing = [rank for rank in range(identity.world_size) if rank not in files]
        if not missing:
            return tuple(files[rank] for rank in range(identity.world_size))
        pause(missing)


def patience(
    *, deadline_seconds: float, sleep: Callable[[float], object], check: Callable[[], None]
) -> Callable[[list[int]], None]:
    """A pause between two looks, longer each time, which raises SaveDropped after the deadline.

    `check` is called after each `sleep` and may raise too.
    """
    end = time.monotonic() + deadline_seconds
    pauses = itertools.accumulate(
        itertools.repeat(_FIRST_PAUSE_SECONDS),
        lambda pause, _: min(1.5 * pause, _LONGEST_PAUSE_SECONDS),
    )

    def pause(missing: list[int]) -> None:
        sleep(next(pauses))
        check()
        if time.monotonic() > end:
            raise SaveDropped(f"no part of the ranks {missing} within {deadline_seconds:g} s")

    return pause


def complete(
    path: Path,
    *,
    identity: fmt.Identity,
    entries: Mapping[str, Entry],
    extra: Mapping[str, Any],
    files: tuple[fmt.StoredFile, ...],
    allow: Callable[[], None],
) -> fmt.Manifest:
    """Write the manifest, then move `latest` to this checkpoint.

    `allow` is called right before each of the two and raises when this worker must not publish.
    Raises OSError, SaveDropped, ValueError.
    """
    folder = path / identity.folder
    for file in files:
        found = (folder / file.name).stat().st_size
        if found != file.num_bytes:
            raise SaveDropped(f"{file.name} has {found} bytes, its rank wrote {file.num_bytes}")
    others = [manifest.sequence for _, manifest in complete_checkpoints(path)]
    manifest = fmt.Manifest(
        identity=identity,
        sequence=1 + max(others, default=0),
        entries=tuple(fmt.StoredEntry.of(entry) for entry in entries.values()),
        files=files,
        extra=dict(extra),
    )
    allow()
    replace(folder / fmt.MANIFEST, fmt.encode(manifest))
    sync_folder(path)
    allow()
    # A crash right here leaves the temporary file in a folder of its own, to be removed with it.
    replace_from(path / fmt.LATEST, f"{folder.name}\n".encode(), temporary=folder / fmt.LATEST)
    return manifest


def withdraw(path: Path, *, identity: fmt.Identity) -> None:
    """Remove what there is of a save that failed, unless `latest` names it. Never raises."""
    try:
        if read_latest(path) != identity.folder:
            remove_folder(path / identity.folder, first=fmt.MANIFEST)
    except OSError as error:
        logger.warning("cannot remove the unfinished %s: %s", path / identity.folder, error)


def read_latest(path: Path) -> str | None:
    """Name of the folder that `latest` points to; None when there is none or it is rubbish.

    Raises OSError when the storage fails.
    """
    try:
        content = (path / fmt.LATEST).read_bytes()[:256].decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    return content if fmt.parse_folder_name(content) else None


def owner(path: Path) -> str | None:
    """The job whose checkpoint `latest` names; None when that cannot be told. Raises OSError."""
    latest = read_latest(path)
    if latest is None:
        return None
    try:
        return read_manifest(path / latest).identity.job
    except (FileNotFoundError, CheckpointInvalid):
        return None


def folders(path: Path) -> list[fmt.FolderName]:
    """All checkpoint folders in `path`, complete or not. Raises OSError."""
    try:
        names = [found.name for found in path.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(parsed for name in names if (parsed := fmt.parse_folder_name(name)))


def complete_checkpoints(path: Path) -> Iterator[tuple[fmt.FolderName, fmt.Manifest]]:
    """All checkpoints in `path` that have a valid manifest. Raises OSError."""
    for name in folders(path):
        with contextlib.suppress(FileNotFoundError, CheckpointInvalid):
            yield name, read_manifest(path / str(name))


def read_manifest(folder: Path) -> fmt.Manifest:
    """The manifest of a folder.

    Raises FileNotFoundError when the folder is not complete, OSError, CheckpointInvalid.
    """
    file = folder / fmt.MANIFEST
    if (size := file.stat().st_size) > fmt.MAX_MANIFEST_BYTES:
        raise CheckpointInvalid(f"its manifest has {size} bytes, over {fmt.MAX_MANIFEST_BYTES}")
    return fmt.decode(file.read_bytes())


def _put_report(folder: Path, report: fmt.RankReport) -> None:
    text = report.model_dump_json(by_alias=True, exclude_none=True)
    replace(folder / fmt.report_name(report.rank), text.encode())


def _read_report(file: Path) -> fmt.RankReport | None:
    try:
        return fmt.RankReport.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
