"""Windows of tokens from long streams: files in nanoGPT's `.bin` format, or arrays in memory.

Used by tasks. A `.bin` file is nothing but unsigned 16-bit token ids, little-endian; it is mapped
into memory, so its size does not matter and all processes of a machine share its pages.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concertina_api.errors import InvalidJob

Tokens = NDArray[Any]
"""Token ids, one dimension, of any unsigned type."""


def token_file(path: Path, *, vocabulary: int) -> Tokens:
    """The tokens of a `.bin` file, mapped read-only.

    Raises InvalidJob when it is absent, empty or cut within a token, or when its beginning holds
    an id outside the vocabulary (which is how a file of another format shows itself).
    """
    if not path.is_file():
        raise InvalidJob(f"token file {path} does not exist")
    size = path.stat().st_size
    if size == 0 or size % 2:
        raise InvalidJob(f"token file {path} has {size} bytes, not a positive number of uint16")
    tokens: Tokens = np.memmap(path, dtype="<u2", mode="r")
    _check_vocabulary(tokens[:65536], vocabulary, where=f"token file {path}")
    return tokens


def _check_vocabulary(tokens: Tokens, vocabulary: int, *, where: str) -> None:
    largest = int(tokens.max())
    if largest >= vocabulary:
        raise InvalidJob(f"{where} holds id {largest}; the model's vocabulary ends at {vocabulary}")


class Windows:
    """A map-style data set of windows of `context` tokens and, for each, the token after it.

    Sample i is a tensor of `context + 1` ids (int64): inputs are its first `context`, targets its
    last. Windows begin `stride` tokens apart, by default end to end, so that an epoch sees every
    token once as a target.
    """

    def __init__(
        self, tokens: Tokens, *, context: int, vocabulary: int, stride: int | None = None
    ) -> None:
        self._tokens = tokens
        self._context = context
        self._vocabulary = vocabulary
        self._stride = stride or context
        if context < 1 or len(tokens) <= context:
            raise InvalidJob(f"{len(tokens)} tokens hold no window of context {context} + 1")

    def __len__(self) -> int:
        return (len(self._tokens) - self._context - 1) // self._stride + 1

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index * self._stride
        window = self._tokens[start : start + self._context + 1]
        # An id outside the vocabulary would read beyond the embedding, on a GPU without a trace.
        _check_vocabulary(window, self._vocabulary, where=f"window {index}")
        return torch.from_numpy(window.astype(np.int64))


def evenly_spaced(tokens: Tokens, *, number: int, context: int, vocabulary: int) -> Windows:
    """About `number` windows, spread over all tokens: a fixed set for evaluation.

    Always the same ones; never more than fit without overlap.
    """
    apart = (len(tokens) - context - 1) // (number - 1) if number > 1 else len(tokens)
    stride = max(context, apart)
    return Windows(tokens, context=context, vocabulary=vocabulary, stride=stride)
