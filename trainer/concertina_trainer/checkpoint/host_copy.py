"""Copies a worker's tensors to host memory that is used again and again.

Called by the checkpoint writer; the copy is all that the training loop waits for. Two sets of
memory: while one is being written the other takes the next checkpoint, and memory in use is never
overwritten. When both are in use the storage is slower than the interval between checkpoints;
then there is no copy, because waiting would stop training for as long as the storage likes.

A set is one block from which all tensors are cut, so it serves any world size and grows only
when a worker holds more than ever before: fresh pages cost several times the copy itself.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from concertina_trainer.sharding.state import Holding

_ALIGNMENT = 64
"""Bytes; a cache line, and a multiple of every element's size."""


@dataclass(slots=True, kw_only=True)
class _Set:
    memory: torch.Tensor
    in_use: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCopy:
    """A copy on the host; give it back with HostBuffers.release."""

    holding: Holding
    """Only the tensors that were asked for, on CPU."""
    set_index: int


class HostBuffers:
    """The host memory of one worker. Safe to use from several threads."""

    def __init__(self, *, num_sets: int = 2) -> None:
        self._lock = threading.Lock()
        empty = torch.empty(0, dtype=torch.uint8)
        self._sets = [_Set(memory=empty) for _ in range(num_sets)]

    def copy(self, holding: Holding, names: Iterable[str]) -> HostCopy | None:
        """Copy the tensors `names` of `holding`; None when all memory is in use."""
        sources = {name: holding.tensors[name].detach() for name in names}
        on_device = any(source.is_cuda for source in sources.values())
        index = self._take()
        if index is None:
            return None
        try:
            memory = self._grown(index, num_bytes(sources), pinned=on_device)
            targets = cut(memory, sources)
            for name, source in sources.items():
                targets[name].copy_(source, non_blocking=True)
            if on_device:
                torch.cuda.synchronize()
        except BaseException:
            self._give_back(index)
            raise
        return HostCopy(holding=replace(holding, tensors=targets), set_index=index)

    def reserve(self, total: int, *, pinned: bool) -> None:
        """Get `total` bytes ready, so that the first copy need not wait for fresh pages."""
        index = self._take()
        if index is not None:
            self._grown(index, total, pinned=pinned).zero_()
            self._give_back(index)

    def lacking(self, total: int) -> int:
        """Bytes of host memory that copies of `total` bytes will take beyond what is there."""
        with self._lock:
            return sum(max(0, total - len(each.memory)) for each in self._sets)

    def release(self, copied: HostCopy) -> None:
        """The copy is no longer needed; its memory may be overwritten."""
        self._give_back(copied.set_index)

    def _take(self) -> int | None:
        with self._lock:
            for index, candidate in enumerate(self._sets):
                if not candidate.in_use:
                    candidate.in_use = True
                    return index
        return None

    def _give_back(self, index: int) -> None:
        with self._lock:
            self._sets[index].in_use = False

    def _grown(self, index: int, total: int, *, pinned: bool) -> torch.Tensor:
        """The memory of a set that was taken, at least `total` bytes."""
        taken = self._sets[index]
        if len(taken.memory) < total:
            # The old block goes first: never both at once.
            taken.memory = torch.empty(0, dtype=torch.uint8)
            taken.memory = torch.empty(total, dtype=torch.uint8, pin_memory=pinned)
        return taken.memory


def num_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Host memory that a copy of `tensors` takes."""
    return sum(_room(tensor) for tensor in tensors.values())


def _room(tensor: torch.Tensor) -> int:
    return -(-tensor.numel() * tensor.itemsize // _ALIGNMENT) * _ALIGNMENT


def cut(memory: torch.Tensor, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A piece of `memory` for each tensor of `like`."""
    pieces = {}
    offset = 0
    for name, tensor in like.items():
        size = tensor.numel() * tensor.itemsize
        pieces[name] = memory[offset : offset + size].view(tensor.dtype).view(tensor.shape)
        offset += _room(tensor)
    return pieces
