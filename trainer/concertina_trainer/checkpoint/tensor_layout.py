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
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 10**8
"""A larger header is not read, as in the safetensors library."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One tensor as a header describes it."""

    code: str
    """Of its dtype; not all are known."""
    shape: tuple[int, ...]
    begin: int
    """First byte of the data, counted from the end of the header."""
    end: int


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
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def parse_header(head: bytes, *, data_bytes: int) -> tuple[dict[str, str], dict[str, Stored]]:
    """Metadata and tensors of a file with `data_bytes` behind the header. Raises ValueError.

    As in the format's definition the data have no holes and no overlaps, and a tensor has the
    bytes that its dtype and shape want.
    """
    try:
        content = json.loads(head[LENGTH_BYTES:].decode())
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no header: {type(error).__name__}") from error
    if not isinstance(content, dict):
        raise ValueError("a header is a JSON object")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("__metadata__ holds something else than texts")
    tensors = {name: _stored(name, entry) for name, entry in content.items()}
    offset = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != offset or tensor.end < offset:
            raise ValueError(f"{name!r} begins at byte {tensor.begin} of the data, not at {offset}")
        offset = tensor.end
    if offset != data_bytes:
        raise ValueError(f"{data_bytes} bytes of data, the header names {offset}")
    return metadata, tensors


def _stored(name: str, entry: object) -> Stored:
    match entry:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [begin, end]}:
            if all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
                size = DTYPES[code].itemsize * math.prod(shape) if code in DTYPES else end - begin
                if size != end - begin:
                    raise ValueError(f"{name!r} has {end - begin} bytes, its shape wants {size}")
                return Stored(code=code, shape=tuple(shape), begin=begin, end=end)
    raise ValueError(f"{name!r} has no dtype, shape and data_offsets")
