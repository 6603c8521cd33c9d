"""Turns a micro-batch into bytes and back, between a loader process and its worker.

torch would send tensors as shared-memory file descriptors, which stay open as long as any part
of a batch lives; over thousands of batches that runs into the limit on open files. Here tensors
travel in the message. The bytes never touch a disk and come from the worker's own child.
"""

import io
import pickle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def packed(batch: object) -> bytes:
    """`batch` as bytes; tensors anywhere inside it by value."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(batch)
    return buffer.getvalue()


def unpacked(data: bytes) -> Any:
    """The batch that `packed` was given, on the CPU."""
    return pickle.loads(data)  # noqa: S301 (from our own child process, see above)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        flat = value.detach().cpu().contiguous().reshape(-1)
        return _tensor, (flat.view(torch.uint8).numpy(), value.dtype, tuple(value.shape))


def _tensor(data: NDArray[np.uint8], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(data).view(dtype).reshape(shape)
