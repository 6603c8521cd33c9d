"""Finds, checks and reads checkpoints, at any world size.

Called at the start of training, after a loss, and by the exports. A checkpoint is used only when
its manifest is valid and every file has the size and the header that the manifest names; so a
truncated, mixed or foreign one is told before anything is read. Damage inside the data shows while
it is read: what is read whole is compared with its checksum, and of what another world size reads
in pieces each rank verifies a share.

A storage that fails is not taken for an empty or a damaged one: that is an OSError.
"""

import logging
import zlib
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath

import torch

from concertina_api.errors import CheckpointInvalid
from concertina_trainer.checkpoint import format as fmt
from concertina_trainer.checkpoint.parts import share, written_by
from concertina_trainer.checkpoint.publish import folders, named, read_latest, read_manifest
from concertina_trainer.checkpoint.storage import Location, Storage, storage_at
from concertina_trainer.checkpoint.tensor_file import TensorFile
from concertina_trainer.sharding.layout import row_range
from concertina_trainer.sharding.state import Entry, Holding, Kind

logger = logging.getLogger(__name__)


class Checkpoint:
    """A checkpoint that can be used; its files are opened when they are first read."""

    def __init__(self, folder: Storage, manifest: fmt.Manifest) -> None:
        self.location = folder.location
        """Path or URL of its folder."""
        self.name = folder.location.rpartition("/")[2]
        """Name of its folder."""
        self.manifest = manifest
        self._folder = folder
        self.entries: dict[str, Entry] = manifest.by_name()
        self._files: dict[int, TensorFile] = {}

    def file(self, rank: int) -> TensorFile:
        """The file that `rank` wrote. Raises CheckpointInvalid, OSError."""
        if rank not in self._files:
            self._files[rank] = TensorFile(self._folder, self.manifest.files[rank].name)
        return self._files[rank]

    def read(self, rank: int, name: str, *, start: int, into: torch.Tensor) -> None:
        """Fill `into` with the rows from `start` on that `rank` wrote of the tensor `name`.

        Raises CheckpointInvalid when they are not there or, for all that this rank wrote of it,
        when the checksum differs; OSError.
        """
        try:
            file = self.file(rank)
            found = file.read_rows(name, start=start, into=into)
            if start == 0 and file.spec(name).shape == tuple(into.shape):
                self.compare(rank, name, found)
        except FileNotFoundError as error:
            raise CheckpointInvalid(f"{self.location} was removed: {error}") from error

    def compare(self, rank: int, name: str, found: int) -> None:
        """Raise CheckpointInvalid unless `found` is the checksum of what `rank` wrote of `name`."""
        file = self.manifest.files[rank]
        if found != file.checksums[name]:
            raise CheckpointInvalid(
                f"{self.location} cannot be used: {name} in {file.name} is damaged: "
                f"checksum {found:08x}, saved as {file.checksums[name]:08x}"
            )


def find(
    location: Location, *, job: str | None, exclude: Collection[str] = ()
) -> Checkpoint | None:
    """The newest usable checkpoint of `job` (None: of any) at a path or URL; None if none is there.

    First the one that `latest` names, then the others from new to old. Those that cannot be used
    are skipped with a warning that says why. `exclude`: names of folders not to try, for instance
    because `verify` failed. One worker finds, the others `open_checkpoint` the same folder.
    Raises OSError when the storage cannot be read.
    """
    storage = storage_at(location)
    for name in _candidates(storage):
        if name in exclude:
            continue
        try:
            return open_checkpoint(storage.within(name), job=job)
        except CheckpointInvalid as error:
            logger.warning("skipping a checkpoint: %s", error)
    return None


def open_checkpoint(location: Location, *, job: str | None = None) -> Checkpoint:
    """The checkpoint in a folder, which must be one of `job` if that is given.

    Raises CheckpointInvalid, saying why it cannot be used, and OSError when the storage fails.
    """
    folder = storage_at(location)
    try:
        manifest = read_manifest(folder)
        if job is not None and manifest.identity.job != job:
            raise CheckpointInvalid(f"it belongs to job {manifest.identity.job!r}, not {job!r}")
        for rank, file in enumerate(manifest.files):
            _check_file(folder, manifest, file, rank)
    except CheckpointInvalid as error:
        raise CheckpointInvalid(f"{folder.location} cannot be used: {error}") from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        missing = PurePosixPath(str(error.filename or error)).name
        raise CheckpointInvalid(
            f"{folder.location} cannot be used: {missing} is missing"
        ) from error
    return Checkpoint(folder, manifest)


def read_rows(checkpoint: Checkpoint, entry: Entry, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop) of a sharded tensor, from as many files as hold them; on CPU.

    Raises CheckpointInvalid, OSError.
    """
    rows = torch.empty((stop - start, *entry.shape[1:]), dtype=entry.dtype)
    world_size = checkpoint.manifest.identity.world_size
    for rank in range(world_size):
        first, last = row_range(entry.shape[0], world_size=world_size, rank=rank)
        begin, end = max(start, first), min(stop, last)
        if begin < end:
            into = rows[begin - start : end - start]
            checkpoint.read(rank, entry.name, start=begin - first, into=into)
    return rows


def read_whole(checkpoint: Checkpoint, entry: Entry) -> torch.Tensor:
    """All of a tensor, sharded or replicated; on CPU. Raises CheckpointInvalid, OSError."""
    if entry.kind is Kind.SHARDED:
        return read_rows(checkpoint, entry, 0, entry.shape[0])
    whole = torch.empty(entry.shape, dtype=entry.dtype)
    checkpoint.read(0, entry.name, start=0, into=whole)
    return whole


def load(checkpoint: Checkpoint, *, world_size: int, rank: int) -> Holding:
    """What `rank` holds in a world of `world_size`, whatever world wrote the checkpoint.

    A world of the size that wrote it reads all of it whole, and so checks all of it; another one
    calls `verify` too. Raises CheckpointInvalid, OSError.
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

    Raises CheckpointInvalid for the first tensor that differs, OSError.
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
        try:
            found = checkpoint.file(rank).checksum(spec.name)
        except FileNotFoundError as error:
            raise CheckpointInvalid(f"{checkpoint.location} was removed: {error}") from error
        checkpoint.compare(rank, spec.name, found)


def _candidates(storage: Storage) -> Iterator[str]:
    """Names of folders to try, the one that `latest` names first."""
    tried = []
    while (latest := named(read_latest(storage))) is not None and latest not in tried:
        # Asked again, because a writer may have moved it and removed the old one meanwhile.
        tried.append(latest)
        yield latest
    sequences = {
        str(name): sequence
        for name in folders(storage)
        if str(name) not in tried and (sequence := _sequence(storage.within(str(name)))) is not None
    }
    yield from sorted(sequences, key=lambda name: sequences[name], reverse=True)


def _sequence(folder: Storage) -> int | None:
    """Place in the order of checkpoints; None if incomplete, 0 if the manifest cannot be read."""
    try:
        return read_manifest(folder).sequence
    except FileNotFoundError:
        return None
    except CheckpointInvalid:
        return 0


def _check_file(folder: Storage, manifest: fmt.Manifest, file: fmt.StoredFile, rank: int) -> None:
    """Size and header, which names the state the file belongs to. Raises CheckpointInvalid."""
    found = folder.size(file.name)
    if found != file.num_bytes:
        raise CheckpointInvalid(f"{file.name} has {found} bytes, saved were {file.num_bytes}")
    if zlib.crc32(folder.read(file.name, 0, file.header_bytes)) == file.header_checksum:
        return
    if TensorFile(folder, file.name).metadata != manifest.identity.metadata(rank):
        raise CheckpointInvalid(f"{file.name} belongs to another checkpoint")
    raise CheckpointInvalid(f"the header of {file.name} is damaged")
