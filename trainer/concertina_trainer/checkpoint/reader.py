"""Finds, checks and reads checkpoints, at any world size.

Called at the start of training, after a loss, and by the exports. A checkpoint is used only when
its manifest is valid and every file has the size and the header that the manifest names; so a
truncated, mixed or foreign one is told before anything is read. Damage inside the data shows in
`verify`, of which each rank does a share.
"""

import logging
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import torch

from concertina_api.errors import CheckpointInvalid
from concertina_trainer.checkpoint import format as fmt
from concertina_trainer.checkpoint.parts import share, written_by
from concertina_trainer.checkpoint.publish import folders, read_latest, read_manifest
from concertina_trainer.checkpoint.tensor_file import TensorFile
from concertina_trainer.sharding.layout import row_range
from concertina_trainer.sharding.state import Entry, Holding, Kind

logger = logging.getLogger(__name__)


class Checkpoint:
    """A checkpoint that can be used; its files are opened when they are first read."""

    def __init__(self, folder: Path, manifest: fmt.Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.entries: dict[str, Entry] = manifest.by_name()
        self._files: dict[int, TensorFile] = {}

    def file(self, rank: int) -> TensorFile:
        """The file that `rank` wrote. Raises CheckpointInvalid."""
        if rank not in self._files:
            self._files[rank] = TensorFile(self.folder / self.manifest.files[rank].name)
        return self._files[rank]


def find(path: Path, *, job: str | None, exclude: Collection[str] = ()) -> Checkpoint | None:
    """The newest usable checkpoint of `job` (None: of any) in `path`; None when there is none.

    First the one that `latest` names, then the others from new to old. Those that cannot be used
    are skipped with a warning that says why. `exclude`: names of folders not to try, for instance
    because `verify` failed. One worker finds, the others `open_checkpoint` the same folder.
    """
    for name in _candidates(path):
        if name in exclude:
            continue
        try:
            return open_checkpoint(path / name, job=job)
        except CheckpointInvalid as error:
            logger.warning("skipping a checkpoint: %s", error)
    return None


def open_checkpoint(folder: Path, *, job: str | None = None) -> Checkpoint:
    """The checkpoint in `folder`, which must be one of `job` if that is given.

    Raises CheckpointInvalid, saying why it cannot be used.
    """
    try:
        manifest = read_manifest(folder)
        if job is not None and manifest.identity.job != job:
            raise CheckpointInvalid(f"it belongs to job {manifest.identity.job!r}, not {job!r}")
        for rank, file in enumerate(manifest.files):
            _check_file(folder, manifest, file, rank)
    except CheckpointInvalid as error:
        raise CheckpointInvalid(f"{folder} cannot be used: {error}") from error
    except FileNotFoundError as error:
        missing = Path(error.filename or folder).name
        raise CheckpointInvalid(f"{folder} cannot be used: {missing} is missing") from error
    except OSError as error:
        raise CheckpointInvalid(f"{folder} cannot be read: {error}") from error
    return Checkpoint(folder, manifest)


def read_rows(checkpoint: Checkpoint, entry: Entry, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop) of a sharded tensor, from as many files as hold them; on CPU.

    Raises CheckpointInvalid.
    """
    rows = torch.empty((stop - start, *entry.shape[1:]), dtype=entry.dtype)
    world_size = checkpoint.manifest.identity.world_size
    for rank in range(world_size):
        first, last = row_range(entry.shape[0], world_size=world_size, rank=rank)
        begin, end = max(start, first), min(stop, last)
        if begin < end:
            checkpoint.file(rank).read_rows(
                entry.name, start=begin - first, into=rows[begin - start : end - start]
            )
    return rows


def read_whole(checkpoint: Checkpoint, entry: Entry) -> torch.Tensor:
    """All of a tensor, sharded or replicated; on CPU. Raises CheckpointInvalid."""
    if entry.kind is Kind.SHARDED:
        return read_rows(checkpoint, entry, 0, entry.shape[0])
    whole = torch.empty(entry.shape, dtype=entry.dtype)
    checkpoint.file(0).read_rows(entry.name, start=0, into=whole)
    return whole


def load(checkpoint: Checkpoint, *, world_size: int, rank: int) -> Holding:
    """What `rank` holds in a world of `world_size`, whatever world wrote the checkpoint.

    Raises CheckpointInvalid.
    """
    tensors = {}
    for entry in checkpoint.entries.values():
        if entry.kind is Kind.SHARDED:
            start, stop = row_range(entry.shape[0], world_size=world_size, rank=rank)
            tensors[entry.name] = read_rows(checkpoint, entry, start, stop)
        else:
            tensors[entry.name] = read_whole(checkpoint, entry)
    return fmt.holding_of(checkpoint.manifest, tensors, world_size=world_size, rank=rank)


def verify(checkpoint: Checkpoint, *, part: int, parts: int) -> None:
    """Compare the checksums of the share `part` of `parts`; all parts together check everything.

    Raises CheckpointInvalid for the first tensor that differs.
    """
    manifest = checkpoint.manifest
    pieces = [
        (rank, spec)
        for rank in range(manifest.identity.world_size)
        for spec in written_by(
            checkpoint.entries.values(), world_size=manifest.identity.world_size, rank=rank
        )
    ]
    for index in share([spec.num_bytes for _, spec in pieces], part=part, parts=parts):
        rank, spec = pieces[index]
        file = manifest.files[rank]
        found = checkpoint.file(rank).checksum(spec.name)
        if found != file.checksums[spec.name]:
            raise CheckpointInvalid(
                f"{checkpoint.folder} cannot be used: {spec.name} in {file.name} is damaged: "
                f"checksum {found:08x}, saved as {file.checksums[spec.name]:08x}"
            )


def _candidates(path: Path) -> Iterator[str]:
    """Names of folders to try, the one that `latest` names first."""
    try:
        tried = []
        while (latest := read_latest(path)) is not None and latest not in tried:
            # Asked again, because a writer may have moved it and removed the old one meanwhile.
            tried.append(latest)
            yield latest
        sequences = {
            str(name): sequence
            for name in folders(path)
            if str(name) not in tried and (sequence := _sequence(path / str(name))) is not None
        }
    except OSError as error:
        raise CheckpointInvalid(f"{path} cannot be read: {error}") from error
    yield from sorted(sequences, key=lambda name: sequences[name], reverse=True)


def _sequence(folder: Path) -> int | None:
    """Place in the order of checkpoints; None if incomplete, 0 if the manifest cannot be read."""
    try:
        return read_manifest(folder).sequence
    except FileNotFoundError:
        return None
    except CheckpointInvalid:
        return 0


def _check_file(folder: Path, manifest: fmt.Manifest, file: fmt.StoredFile, rank: int) -> None:
    """Size and header, which names the state the file belongs to. Raises CheckpointInvalid."""
    path = folder / file.name
    found = path.stat().st_size
    if found != file.num_bytes:
        raise CheckpointInvalid(f"{file.name} has {found} bytes, saved were {file.num_bytes}")
    with path.open("rb") as opened:
        head = opened.read(file.header_bytes)
    if zlib.crc32(head) == file.header_checksum:
        return
    if TensorFile(path).metadata != manifest.identity.metadata(rank):
        raise CheckpointInvalid(f"{file.name} belongs to another checkpoint")
    raise CheckpointInvalid(f"the header of {file.name} is damaged")
