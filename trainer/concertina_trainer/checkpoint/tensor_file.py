"""Writes and reads one safetensors file: one tensor in memory at a time, checksums on the way.

Called by the checkpoint writer and reader, the exports and the sources of weights. Both directions
are done here and not by the safetensors library: its save_file wants all tensors at once, cannot
stop in the middle and would cost a second pass over the data for the checksums; its safe_open maps
a local file, and knows no ranges of an object in a bucket.

Checksums are zlib.crc32: of what the standard library has it is among the fastest (about 2 GB/s,
three times blake2b), releases the interpreter's lock, and finds every burst of up to 32 flipped
bits. It guards against damage, not against an adversary, who could write a manifest as well.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

from concertina_api.errors import CheckpointInvalid
from concertina_trainer.checkpoint.storage import Storage
from concertina_trainer.checkpoint.tensor_layout import (
    DTYPES,
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    Stored,
    TensorSpec,
    Written,
    file_order,
    header,
    parse_header,
)

CHUNK_BYTES = 16 * 2**20
"""Data written between two looks at whether to go on."""
READ_BYTES = 64 * 2**20
"""Data read at a time."""
AHEAD_BYTES = 4 * 2**20
"""Read at once where less is asked for: small tensors lie side by side."""


def write_tensors(
    storage: Storage,
    name: str,
    *,
    specs: Iterable[TensorSpec],
    tensor: Callable[[str], torch.Tensor],
    metadata: Mapping[str, str],
    proceed: Callable[[], None] = lambda: None,
) -> Written:
    """Write the tensors `specs` to the object `name`, durably and atomically.

    `tensor(name)` is asked for one tensor at a time, on CPU, of the dtype and shape of its spec.
    `proceed` is called between chunks of CHUNK_BYTES and stops the writing by raising.
    Raises OSError, ValueError (a dtype that the format lacks); then the object is as it was.
    """
    ordered = file_order(specs)
    head = header(ordered, metadata)
    checksums: dict[str, int] = {}

    def content() -> Iterator[bytes | memoryview]:
        yield head
        for spec in ordered:
            value = 0
            for chunk in chunks(_as_announced(tensor(spec.name), spec)):
                proceed()
                yield chunk
                value = zlib.crc32(chunk, value)
            checksums[spec.name] = value

    storage.write(name, content())
    return Written(
        header_bytes=len(head),
        header_checksum=zlib.crc32(head),
        num_bytes=len(head) + sum(spec.num_bytes for spec in ordered),
        checksums=checksums,
    )


def chunks(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor on CPU, at most CHUNK_BYTES at a time, without a copy if contiguous."""
    content = _bytes_of(tensor.detach().contiguous())
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]


def _bytes_of(contiguous: torch.Tensor) -> memoryview:
    # view(uint8) comes after the flattening: a 0-dim tensor of wide elements has no such view.
    return contiguous.reshape(-1).view(torch.uint8).numpy().data


def _as_announced(tensor: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    if tensor.dtype != spec.dtype or tuple(tensor.shape) != spec.shape:
        raise ValueError(
            f"{spec.name}: announced as {spec.dtype} {spec.shape}, "
            f"got {tensor.dtype} {tuple(tensor.shape)}"
        )
    return tensor


class TensorFile:
    """A safetensors file that is read by rows."""

    def __init__(self, storage: Storage, name: str) -> None:
        """Read the header of the object `name`.

        Raises OSError, and CheckpointInvalid when it is no safetensors file.
        """
        self.location = f"{storage.location}/{name}"
        self._storage = storage
        self._name = name
        self._num_bytes = storage.size(name)
        self._ahead = (0, b"")
        try:
            if self._num_bytes < LENGTH_BYTES:
                raise ValueError(f"it has {self._num_bytes} bytes")
            length = int.from_bytes(self._read(0, LENGTH_BYTES), "little")
            if length > min(MAX_HEADER_BYTES, self._num_bytes - LENGTH_BYTES):
                raise ValueError(f"a header of {length} bytes in a file of {self._num_bytes}")
            self.header_bytes = LENGTH_BYTES + length
            self.head = self._read(0, self.header_bytes)
            data_bytes = self._num_bytes - self.header_bytes
            self.metadata, self._tensors = parse_header(self.head, data_bytes=data_bytes)
        except ValueError as error:
            raise CheckpointInvalid(
                f"{self.location} is not a readable safetensors file: {error}"
            ) from error
        self.names: frozenset[str] = frozenset(self._tensors)

    def spec(self, name: str) -> TensorSpec:
        """Dtype and shape of a tensor. Raises CheckpointInvalid for an unknown dtype."""
        found = self._found(name)
        if found.code not in DTYPES:
            raise CheckpointInvalid(f"{self.location}: {name} has the unknown dtype {found.code}")
        return TensorSpec(name=name, dtype=DTYPES[found.code], shape=found.shape)

    def read_rows(self, name: str, *, start: int, into: torch.Tensor) -> int:
        """Fill `into`, contiguous, with the rows of `name` from `start` on, converted to its dtype.

        crc32 of what was read, before it was converted. Raises OSError, CheckpointInvalid.
        """
        spec = self.spec(name)
        rows = into if into.dtype == spec.dtype else torch.empty_like(into, dtype=spec.dtype)
        target = _bytes_of(rows)
        row_bytes = spec.num_bytes // max(spec.shape[0], 1) if spec.shape else spec.num_bytes
        value = 0
        begin = self.header_bytes + self._found(name).begin + start * row_bytes
        if start * row_bytes + len(target) > spec.num_bytes:
            raise CheckpointInvalid(f"{self.location}: {name} has no rows after {spec.shape[:1]}")
        for done in range(0, len(target), READ_BYTES):
            stop = min(done + READ_BYTES, len(target))
            part = self._read(begin + done, begin + stop)
            target[done:stop] = part
            value = zlib.crc32(part, value)
        if rows is not into:
            into.copy_(rows)
        return value

    def checksum(self, name: str) -> int:
        """crc32 of the data of `name`. Raises OSError, CheckpointInvalid."""
        found = self._found(name)
        value = 0
        for start in range(found.begin, found.end, READ_BYTES):
            stop = min(start + READ_BYTES, found.end)
            value = zlib.crc32(
                self._read(self.header_bytes + start, self.header_bytes + stop), value
            )
        return value

    def _found(self, name: str) -> Stored:
        if name not in self._tensors:
            raise CheckpointInvalid(f"{self.location} has no tensor {name!r}")
        return self._tensors[name]

    def _read(self, start: int, stop: int) -> bytes:
        """Exactly these bytes of the file."""
        if stop > self._num_bytes:
            raise CheckpointInvalid(f"{self.location} ends before byte {stop}")
        if stop - start >= AHEAD_BYTES:
            content = self._storage.read(self._name, start, stop)
        else:
            first, ahead = self._ahead
            if not first <= start <= stop <= first + len(ahead):
                end = min(start + AHEAD_BYTES, self._num_bytes)
                first, ahead = start, self._storage.read(self._name, start, end)
                self._ahead = (first, ahead)
            content = ahead[start - first : stop - first]
        if len(content) != stop - start:
            raise CheckpointInvalid(f"{self.location} was cut while it was read")
        return content
