"""The description of a training state as JSON: told to joiners, and stored in checkpoints.

It holds no tensor data; `decode_header(encode_header(holding))` gives the entries and the extra.
"""

from collections.abc import Mapping
from typing import Any

import torch

from concertina_api.errors import CheckpointInvalid
from concertina_trainer.sharding.state import Entry, Holding, Kind


def encode_header(holding: Holding) -> dict[str, Any]:
    """Entries and extra of a state as JSON values."""
    return {
        "entries": [
            [entry.name, entry.kind.value, dtype_name(entry.dtype), list(entry.shape)]
            for entry in holding.entries.values()
        ],
        "extra": dict(holding.extra),
    }


def decode_header(header: Mapping[str, Any]) -> tuple[dict[str, Entry], dict[str, Any]]:
    """The counterpart of `encode_header`. Raises CheckpointInvalid for what it has not made."""
    try:
        entries = {
            str(name): Entry(
                name=str(name), kind=Kind(kind), dtype=dtype_of(dtype), shape=_shape_of(shape)
            )
            for name, kind, dtype, shape in header["entries"]
        }
        return entries, dict(header["extra"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointInvalid(f"no description of a state: {error!r:.200}") from error


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    """torch.float32 for `float32`. Raises CheckpointInvalid for a name that is no dtype."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise CheckpointInvalid(f"{name!r} is not a tensor type")
    return dtype


def _shape_of(value: Any) -> tuple[int, ...]:
    shape = tuple(value)
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"{value!r:.60} is no shape")
    return shape
