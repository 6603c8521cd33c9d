"""What a checkpoint folder holds: names, the manifest, and the rules that make it whole.

Pure: no I/O, no clock. The writer builds these models, the reader validates them.

    <path>/latest                            name of the newest complete checkpoint
    <path>/step-000000412-r3-1a2b3c4d/       step, round, origin
        rank-00000.safetensors               rows of rank 0, and all replicated tensors
        rank-00000.json                      RankReport: size and checksums of that file
        ...
        manifest.json                        Manifest; written last: without it nothing counts
        rank-00000.claim                     only where survivors save together (claims.py)

The origin names the world that wrote the folder. Every worker derives it from the membership
without a word to the others, and it differs after each restart of a process; so a folder is
never written twice, not even when rounds are counted from 1 again.
"""

import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import ConfigDict, Field, JsonValue, ValidationError, model_validator

from concertina_api.errors import CheckpointInvalid
from concertina_api.v1alpha1.base import Count, JobName, Model, Positive
from concertina_trainer.checkpoint.parts import written_by
from concertina_trainer.checkpoint.tensor_layout import DTYPES, Written
from concertina_trainer.sharding.state import Entry, Holding, Kind

MANIFEST = "manifest.json"
LATEST = "latest"
CLAIM_SUFFIX = ".claim"
MAX_MANIFEST_BYTES = 2**30
"""A larger manifest is not read."""
MAX_LATEST_BYTES = 256
"""More than a name takes."""

_DTYPE_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
_FOLDER = re.compile(r"step-(\d{9,16})-r(\d{1,16})-([0-9a-f]{8})")

Checksum = Annotated[int, Field(ge=0, lt=2**32)]
TensorName = Annotated[str, Field(min_length=1, max_length=1024)]
FileName = Annotated[str, Field(pattern=r"^rank-\d{5,7}\.safetensors$")]
Origin = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]


class FolderName(NamedTuple):
    """What the name of a checkpoint folder says."""

    step: int
    round: int
    origin: str

    def __str__(self) -> str:
        return f"step-{self.step:09d}-r{self.round}-{self.origin}"


def parse_folder_name(name: str) -> FolderName | None:
    """The parts of a folder's name; None when it is not one of ours."""
    found = _FOLDER.fullmatch(name)
    return FolderName(int(found[1]), int(found[2]), found[3]) if found else None


def origin(workers: Iterable[str]) -> str:
    """Eight hexadecimal digits that stand for a world: its worker identities in rank order."""
    return f"{zlib.crc32(chr(10).join(workers).encode()):08x}"


def tensor_file_name(rank: int) -> str:
    """Name of the file with the rows of `rank`."""
    return f"rank-{rank:05d}.safetensors"


def report_name(rank: int) -> str:
    """Name of the file that says that the rows of `rank` are written."""
    return f"rank-{rank:05d}.json"


def claim_name(rank: int) -> str:
    """Name of the object by which a worker says that it will write the rows of `rank`."""
    return f"rank-{rank:05d}{CLAIM_SUFFIX}"


class _Stored(Model):
    # A statistic may be infinite (the best loss before the first evaluation).
    model_config = ConfigDict(ser_json_inf_nan="constants")


class Identity(_Stored):
    """Which state this is; the same in all files of a checkpoint."""

    job: JobName
    origin: Origin
    round: Count
    step: Count
    samples: Count
    """Samples consumed: where the order of samples goes on."""
    world_size: Positive

    @property
    def folder(self) -> str:
        """Name of the folder of this checkpoint."""
        return str(FolderName(self.step, self.round, self.origin))

    def metadata(self, rank: int) -> dict[str, str]:
        """For the header of the file of `rank`, which tells a file of another checkpoint."""
        return {"identity": self.model_dump_json(by_alias=True), "rank": str(rank)}


class StoredEntry(_Stored):
    """One tensor of the state."""

    name: TensorName
    kind: Kind
    dtype: str
    shape: Annotated[tuple[Count, ...], Field(max_length=16)]

    @model_validator(mode="after")
    def _can_be_stored(self) -> Self:
        if self.dtype not in _DTYPE_NAMES:
            raise ValueError(f"{self.name}: unknown dtype {self.dtype!r}")
        if self.kind is Kind.SHARDED and not self.shape:
            raise ValueError(f"{self.name}: a sharded tensor has at least one dimension")
        return self

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """The entry as it is stored."""
        dtype = str(entry.dtype).removeprefix("torch.")
        return cls(name=entry.name, kind=entry.kind, dtype=dtype, shape=entry.shape)

    def entry(self) -> Entry:
        """The entry as the trainer knows it."""
        return Entry(name=self.name, kind=self.kind, dtype=self.torch_dtype, shape=self.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself."""
        return _DTYPE_NAMES[self.dtype]


class StoredFile(_Stored):
    """The tensors that one rank wrote."""

    name: FileName
    header_bytes: Positive
    header_checksum: Checksum
    num_bytes: Positive
    checksums: dict[TensorName, Checksum]
    """crc32 of the data of each tensor in the file."""

    @classmethod
    def of(cls, written: Written, *, rank: int) -> Self:
        """The file of `rank`, just written."""
        return cls(
            name=tensor_file_name(rank),
            header_bytes=written.header_bytes,
            header_checksum=written.header_checksum,
            num_bytes=written.num_bytes,
            checksums=dict(written.checksums),
        )


class RankReport(_Stored):
    """Rank to leader: my file is written, or why not."""

    identity: Identity
    rank: Count
    file: StoredFile | None = None
    failure: Annotated[str, Field(max_length=512)] = ""
    """Why there is no file."""


class Manifest(_Stored):
    """All about a complete checkpoint."""

    checksum: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")] = "0" * 8
    """crc32 of this document with eight zeros here; the first field, see encode and decode."""
    format: Literal["concertina-checkpoint"] = "concertina-checkpoint"
    version: Literal[1] = 1
    identity: Identity
    sequence: Positive
    """1 + the largest in the folder when it was written: the order of checkpoints."""
    entries: Annotated[tuple[StoredEntry, ...], Field(max_length=10**6)]
    files: Annotated[tuple[StoredFile, ...], Field(max_length=10**6)]
    """By rank."""
    extra: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        world_size = self.identity.world_size
        if len(self.files) != world_size:
            raise ValueError(f"{len(self.files)} files for {world_size} ranks")
        entries = self.by_name()
        if len(entries) != len(self.entries):
            raise ValueError("two tensors have the same name")
        for rank, file in enumerate(self.files):
            if file.name != tensor_file_name(rank):
                raise ValueError(f"file {rank} is {file.name}, not {tensor_file_name(rank)}")
            specs = list(written_by(entries.values(), world_size=world_size, rank=rank))
            want = file.header_bytes + sum(spec.num_bytes for spec in specs)
            if file.num_bytes != want:
                raise ValueError(f"{file.name} has {file.num_bytes} bytes, its tensors want {want}")
            if differing := file.checksums.keys() ^ {spec.name for spec in specs}:
                raise ValueError(f"{file.name}: tensors {sorted(differing)[:5]} missing or foreign")
        return self

    def by_name(self) -> dict[str, Entry]:
        """The entries by name, in their order."""
        return {stored.name: stored.entry() for stored in self.entries}


def identity_of(holding: Holding, *, job: str, origin: str) -> Identity:
    """The identity of a checkpoint of `holding`, whose extra has `samples`."""
    return Identity(
        job=job,
        origin=origin,
        round=holding.round,
        step=holding.step,
        samples=holding.extra["samples"],
        world_size=holding.world_size,
    )


_PREFIX = b'{"checksum":"'
_ZEROS = b"0" * 8


def encode(manifest: Manifest) -> bytes:
    """The document to store, with its checksum in place."""
    text = manifest.model_copy(update={"checksum": "0" * 8}).model_dump_json(by_alias=True).encode()
    return _PREFIX + f"{zlib.crc32(text):08x}".encode() + text[len(_PREFIX) + 8 :]


def decode(text: bytes) -> Manifest:
    """The manifest in `text`. Raises CheckpointInvalid, saying what is wrong with it."""
    end = len(_PREFIX) + 8
    claimed = text[len(_PREFIX) : end].decode("ascii", "replace")
    found = f"{zlib.crc32(_PREFIX + _ZEROS + text[end:]):08x}"
    if not text.startswith(_PREFIX) or claimed != found:
        raise CheckpointInvalid("its manifest is damaged: the checksum does not match")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        location = ".".join(str(step) for step in mistake["loc"]) or "whole"
        given = f", got {mistake['input']!r}" if isinstance(mistake["input"], str | int) else ""
        raise CheckpointInvalid(
            f"its manifest is not one of version 1: {location}: {mistake['msg']}{given}"
        ) from error


def holding_of(
    manifest: Manifest, tensors: Mapping[str, torch.Tensor], *, world_size: int, rank: int
) -> Holding:
    """The part of `rank` in a world of `world_size`, made of rows read from a checkpoint."""
    extra: dict[str, Any] = dict(manifest.extra)
    return Holding(
        round=manifest.identity.round,
        step=manifest.identity.step,
        world_size=world_size,
        rank=rank,
        entries=manifest.by_name(),
        tensors=tensors,
        extra=extra,
    )
