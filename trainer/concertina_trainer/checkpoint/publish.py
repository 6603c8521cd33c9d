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
from typing import Any

from pydantic import ValidationError

from concertina_api.errors import CheckpointInvalid, ConcertinaError
from concertina_trainer.checkpoint import format as fmt
from concertina_trainer.checkpoint.claims import is_claimed
from concertina_trainer.checkpoint.parts import written_by
from concertina_trainer.checkpoint.storage import Storage
from concertina_trainer.checkpoint.tensor_file import write_tensors
from concertina_trainer.sharding.state import Entry, Holding

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.5


class SaveDropped(ConcertinaError):
    """This save will not become a checkpoint; the next one may."""


class PartsMissing(SaveDropped):
    """Other ranks have written no part where this one looks for them."""


def write_part(
    storage: Storage, holding: Holding, *, identity: fmt.Identity, proceed: Callable[[], None]
) -> None:
    """Write the tensors of one rank and then the report that they are there.

    `proceed` raises to stop in the middle. Raises OSError, ValueError.
    """
    folder = storage.within(identity.folder)
    rank = holding.rank
    # A report of an earlier try at the same state would speak for a file that is being replaced.
    folder.remove(fmt.report_name(rank))
    written = write_tensors(
        folder,
        fmt.tensor_file_name(rank),
        specs=written_by(holding.entries.values(), world_size=holding.world_size, rank=rank),
        tensor=holding.tensors.__getitem__,
        metadata=identity.metadata(rank),
        proceed=proceed,
    )
    report = fmt.RankReport(
        identity=identity, rank=rank, file=fmt.StoredFile.of(written, rank=rank)
    )
    _put_report(folder, report)


def report_failure(storage: Storage, *, identity: fmt.Identity, rank: int, reason: str) -> None:
    """Tell the leader not to wait for this rank, and take away what it wrote. Never raises."""
    folder = storage.within(identity.folder)
    with contextlib.suppress(OSError):
        folder.remove(fmt.tensor_file_name(rank))
    report = fmt.RankReport(identity=identity, rank=rank, failure=reason[:512])
    # Without storage nobody can be told; then the leader's deadline drops the set.
    with contextlib.suppress(OSError):
        _put_report(folder, report)


def collect(
    storage: Storage, *, identity: fmt.Identity, pause: Callable[[list[int]], None]
) -> tuple[fmt.StoredFile, ...]:
    """Wait for the reports of all ranks; their files by rank.

    `pause` is called with the missing ranks between two looks and raises when waiting is over.
    Raises SaveDropped when a rank reports that it has failed, OSError.
    """
    folder = storage.within(identity.folder)
    files: dict[int, fmt.StoredFile] = {}
    while True:
        there = set(folder.names())
        for rank in range(identity.world_size):
            if rank not in files and fmt.report_name(rank) in there:
                report = _read_report(folder, fmt.report_name(rank))
                if report is not None and report.identity == identity and report.rank == rank:
                    if report.file is None:
                        raise SaveDropped(f"rank {rank} could not save: {report.failure}")
                    files[rank] = report.file
        missing = [rank for rank in range(identity.world_size) if rank not in files]
        if not missing:
            return tuple(files[rank] for rank in range(identity.world_size))
        pause(missing)


def await_latest(
    storage: Storage, *, identity: fmt.Identity, pause: Callable[[float], object]
) -> None:
    """Wait until `latest` names this save. A storage that fails just now is asked again.

    `pause` is called with seconds between two looks and raises when waiting is over.
    """
    for seconds in _pauses():
        with contextlib.suppress(OSError):
            if named(read_latest(storage)) == identity.folder:
                return
        pause(seconds)


def patience(
    *, deadline_seconds: float, sleep: Callable[[float], object], check: Callable[[], object]
) -> Callable[[list[int]], None]:
    """A pause between two looks, longer each time, which raises PartsMissing after the deadline.

    `check` is called after each `sleep` and may raise too.
    """
    end = time.monotonic() + deadline_seconds
    pauses = _pauses()

    def pause(missing: list[int]) -> None:
        sleep(next(pauses))
        check()
        if time.monotonic() > end:
            raise PartsMissing(f"no part of the ranks {missing} within {deadline_seconds:g} s")

    return pause


def complete(
    storage: Storage,
    *,
    identity: fmt.Identity,
    entries: Mapping[str, Entry],
    extra: Mapping[str, Any],
    files: tuple[fmt.StoredFile, ...],
    allow: Callable[[], bytes | None],
) -> fmt.Manifest:
    """Write the manifest, then move `latest` to this checkpoint.

    `allow` is called right before each of the two and raises when this worker must not publish;
    it returns what `latest` held then, and nobody may have moved it since.
    Raises OSError, SaveDropped, ValueError.
    """
    folder = storage.within(identity.folder)
    for file in files:
        found = folder.size(file.name)
        if found != file.num_bytes:
            raise SaveDropped(f"{file.name} has {found} bytes, its rank wrote {file.num_bytes}")
    others = [manifest.sequence for _, manifest in complete_checkpoints(storage)]
    manifest = fmt.Manifest(
        identity=identity,
        sequence=1 + max(others, default=0),
        entries=tuple(fmt.StoredEntry.of(entry) for entry in entries.values()),
        files=files,
        extra=dict(extra),
    )
    allow()
    folder.write(fmt.MANIFEST, [fmt.encode(manifest)])
    seen = allow()
    try:
        content = f"{identity.folder}\n".encode()
        storage.swap(fmt.LATEST, content, seen=seen, by=identity.folder)
    except FileExistsError as error:
        raise SaveDropped(str(error)) from error
    return manifest


def withdraw(storage: Storage, *, identity: fmt.Identity) -> None:
    """Remove what there is of a save that failed, unless `latest` names it. Never raises.

    What survivors have claimed since is theirs: they may be writing the same state again.
    """
    folder = storage.within(identity.folder)
    try:
        if named(read_latest(storage)) != identity.folder and not is_claimed(folder):
            folder.clear(first=fmt.MANIFEST)
    except OSError as error:
        logger.warning("cannot remove the unfinished %s: %s", folder.location, error)


def read_latest(storage: Storage) -> bytes | None:
    """What `latest` holds; None when there is none. Raises OSError when the storage fails."""
    try:
        return storage.read(fmt.LATEST, 0, fmt.MAX_LATEST_BYTES)
    except FileNotFoundError:
        return None


def named(latest: bytes | None) -> str | None:
    """The folder that `latest` names; None when that is nothing or rubbish."""
    content = (latest or b"").decode("ascii", "replace").strip()
    return content if fmt.parse_folder_name(content) else None


def owner(storage: Storage) -> str | None:
    """The job whose checkpoint `latest` names; None when that cannot be told. Raises OSError."""
    latest = named(read_latest(storage))
    if latest is None:
        return None
    try:
        return read_manifest(storage.within(latest)).identity.job
    except (FileNotFoundError, CheckpointInvalid):
        return None


def folders(storage: Storage) -> list[fmt.FolderName]:
    """All checkpoint folders in `storage`, complete or not. Raises OSError."""
    return sorted(parsed for name in storage.names() if (parsed := fmt.parse_folder_name(name)))


def complete_checkpoints(storage: Storage) -> Iterator[tuple[fmt.FolderName, fmt.Manifest]]:
    """All checkpoints in `storage` that have a valid manifest. Raises OSError."""
    for name in folders(storage):
        with contextlib.suppress(FileNotFoundError, CheckpointInvalid):
            yield name, read_manifest(storage.within(str(name)))


def read_manifest(folder: Storage) -> fmt.Manifest:
    """The manifest of a folder.

    Raises FileNotFoundError when the folder is not complete, OSError, CheckpointInvalid.
    """
    if (size := folder.size(fmt.MANIFEST)) > fmt.MAX_MANIFEST_BYTES:
        raise CheckpointInvalid(f"its manifest has {size} bytes, over {fmt.MAX_MANIFEST_BYTES}")
    return fmt.decode(folder.read(fmt.MANIFEST))


def _pauses() -> Iterator[float]:
    """Seconds between looks at a storage: soon at first, and never too seldom."""
    return itertools.accumulate(
        itertools.repeat(_FIRST_PAUSE_SECONDS),
        lambda pause, _: min(1.5 * pause, _LONGEST_PAUSE_SECONDS),
    )


def _put_report(folder: Storage, report: fmt.RankReport) -> None:
    text = report.model_dump_json(by_alias=True, exclude_none=True)
    folder.write(fmt.report_name(report.rank), [text.encode()])


def _read_report(folder: Storage, name: str) -> fmt.RankReport | None:
    try:
        return fmt.RankReport.model_validate_json(folder.read(name))
    except (FileNotFoundError, ValidationError):
        return None
