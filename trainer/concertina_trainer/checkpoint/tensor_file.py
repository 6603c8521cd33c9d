"""Writes and reads one safetensors file: one tensor in memory at a time, checksums on the way.

Called by the checkpoint writer and reader, the exports and the sources of weights. Writing is
done here and not by safetensors.torch.save_file, which wants all tensors at once, cannot stop in
the middle and would cost a second pass over the data for the checksums.

Checksums are zlib.crc32: of what the standard library has it is among the fastest (about 2 GB/s,
three times blake2b), releases the interpreter's lock, and finds every burst of up to 32 flipped
bits. It guards against damage, not against an adversary, who could write a manifest as well.
"""

import contextlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from concertina_api.errors import CheckpointInvalid
from concertina_trainer.checkpoint.files import sync_folder, temporary_name
from concertina_trainer.checkpoint.tensor_layout import (
    DTYPES,
    TensorSpec,
    Written,
    file_order,
    header,
)

CHUNK_BYTES = 16 * 2**20
"""Data written between two looks at whether to go on."""


def write_tensors(
    path: Path,
    *,
    specs: Iterable[TensorSpec],
    tensor: Callable[[str], torch.Tensor],
    metadata: Mapping[str, str],
    proceed: Callable[[], None] = lambda: None,
) -> Written:
    """Write the tensors `specs` to `path`, durably and atomically.

    `tensor(name)` is asked for one tensor at a time, on CPU, of the dtype and shape of its spec.
    `proceed` is called between chunks of CHUNK_BYTES and stops the writing by raising.
    Raises OSError, ValueError (a dtype that the format lacks); then `path` is as it was.
    """
    ordered = file_order(specs)
    head = header(ordered, metadata)
    temporary = temporary_name(path)
    checksums = {}
    try:
        with temporary.open("wb", buffering=0) as file:
            _write_all(file, memoryview(head))
            for spec in ordered:
                checksums[spec.name] = _write_tensor(file, tensor(spec.name), spec, proceed)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)
    return Written(
        header_bytes=len(head),
        header_checksum=zlib.crc32(head),
        num_bytes=len(head) + sum(spec.num_bytes for spec in ordered),
        checksums=checksums,
    )


def chunks(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor on CPU, at most CHUNK_BYTES at a time, without a copy if contiguous."""
    # view(uint8) comes after the flattening: a 0-dim tensor of wide elements has no such view.
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]


def checksum(tensor: torch.Tensor) -> int:
    """crc32 of the data of a tensor on CPU."""
    value = 0
    for chunk in chunks(tensor):
        value = zlib.crc32(chunk, value)
    return value


def _write_tensor(
    file: Any, tensor: torch.Tensor, spec: TensorSpec, proceed: Callable[[], None]
) -> int:
    if tensor.dtype != spec.dtype or tuple(tensor.shape) != spec.shape:
        raise ValueError(
            f"{spec.name}: announced as {spec.dtype} {spec.shape}, "
            f"got {tensor.dtype} {tuple(tensor.shape)}"
        )
    value = 0
    for chunk in chunks(tensor):
        proceed()
        _write_all(file, chunk)
        value = zlib.crc32(chunk, value)
    return value


def _write_all(file: Any, content: memoryview) -> None:
    """An unbuffered write may take a part only; a full disk shows as OSError at the next one."""
    while content:
        content = content[file.write(content) :]


class TensorFile:
    """An open safetensors file that reads rows."""

    def __init__(self, path: Path) -> None:
        """Open `path`. Raises CheckpointInvalid when it is absent or no safetensors file."""
        # safetensors ships no types for this class.
        opener: Any = safe_open
        try:
            self._file = opener(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise CheckpointInvalid(
                f"{path} is not a readable safetensors file: {error}"
            ) from error
        self.path = path
        self.metadata: Mapping[str, str] = self._file.metadata() or {}
        self.names: frozenset[str] = frozenset(self._file.keys())

    def spec(self, name: str) -> TensorSpec:
        """Dtype and shape of a tensor. Raises CheckpointInvalid for an unknown dtype."""
        found = self._file.get_slice(name)
        code = found.get_dtype()
        if code not in DTYPES:
            raise CheckpointInvalid(f"{self.path}: {name} has the unknown dtype {code}")
        return TensorSpec(name=name, dtype=DTYPES[code], shape=tuple(found.get_shape()))

    def read_rows(self, name: str, *, start: int, into: torch.Tensor) -> None:
        """Fill `into` with the rows of `name` from `start` on, converted to its dtype.

        Copies, because what safetensors returns is a view of the mapped file: it would keep the
        file open, and crash the process when the file is cut.
        """
        if into.ndim == 0:
            into.copy_(self._file.get_tensor(name))
        elif len(into):
            into.copy_(self._file.get_slice(name)[start : start + len(into)])

    def checksum(self, name: str) -> int:
        """crc32 of the data of `name`."""
        return checksum(self._file.get_tensor(name))
