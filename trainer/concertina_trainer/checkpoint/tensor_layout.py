"""The layout of a safetensors file: which tensors, in which order, behind which header.

Pure: no I/O. Called by tensor_file, which writes and reads such files, and by the manifest. The
format: 8 bytes length of the header (little-endian), the header as JSON, the data without holes.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""What the format can hold, by its names."""
_CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor of a file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What is in a file just written."""

    header_bytes: int
    """Length and header; the data begin here."""
    header_checksum: int
    num_bytes: int
    """Size of the file."""
    checksums: Mapping[str, int]
    """crc32 of each tensor's data."""


def file_order(specs: Iterable[TensorSpec]) -> list[TensorSpec]:
    """The order in the file: wide elements first, so that each tensor begins aligned."""
    return sorted(specs, key=lambda spec: -spec.dtype.itemsize)


def header(ordered: Sequence[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """Length and header of a file with these tensors in this order; a multiple of 8 bytes."""
    content: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for spec in ordered:
        if spec.dtype not in _CODES:
            raise ValueError(f"{spec.name}: a safetensors file cannot hold {spec.dtype}")
        end = offset + spec.num_bytes
        content[spec.name] = {
            "dtype": _CODES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
