"""The job under chaos, whose state itself says which samples made it.

A buffer counts, for each sample of the data set, how often it was trained in the history that
survived: it is moved, copied, saved and rolled back with the parameters, so no row of a record that
a full disk swallowed and no crash between a step and its row can spoil the count. What each worker
sees of the parameters in each step goes to a file of its own, as a checksum.
"""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from concertina_trainer.task import Loss
from tests.models import Block, TinyLM, seeded
from tests.tasks import TinyTask

CONSUMED = "buffer/consumed"
"""The buffer's name in a checkpoint."""


class SeenBlock(Block):
    """Notes what it sees of its parameters while FSDP has gathered them."""

    sight = 0

    def forward(self, x: Tensor) -> Tensor:
        self.sight = checksum(self.parameters())
        return super().forward(x)


class CountingLM(TinyLM):
    """TinyLM with the buffer; `sight` is a checksum of all that it saw in its last forward pass."""

    consumed: Tensor
    sight = 0

    def __init__(self, *, size: int, width: int, layers: int, heads: int = 2) -> None:
        super().__init__(width=width, layers=layers, heads=heads)
        self.blocks = nn.ModuleList(SeenBlock(width, heads) for _ in range(layers))
        self.register_buffer("consumed", torch.zeros(size))

    def forward(self, tokens: Tensor) -> Tensor:
        logits = super().forward(tokens)
        own = [p for name, p in self.named_parameters() if not name.startswith("blocks.")]
        blocks = "".join(f"{block.sight:08x}" for block in self.blocks)
        self.sight = zlib.crc32(blocks.encode(), checksum([*own, self.consumed]))
        return logits


class ChaosTask(TinyTask):
    """Trains CountingLM; each sample takes its time, so that a run is long enough to be hit."""

    def __init__(self, *, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self.folder = Path(folder)
        self._told = -1

    def build(self) -> nn.Module:
        model = CountingLM(size=self.size, width=self.width, layers=self.layers)
        if not model.positions.is_meta:
            values = seeded(layers=self.layers, width=self.width).state_dict()
            model.load_state_dict(values, strict=False)
        return model

    def loss(self, model: nn.Module, batch: Any) -> Loss:
        assert isinstance(model, CountingLM)
        indices, ids = batch
        position = int(model.consumed.count_nonzero())
        total = super().loss(model, (indices, ids))
        self._tell(position, model.sight)
        with torch.no_grad():
            model.consumed[indices] += 1.0
        return total

    def _tell(self, position: int, sight: int) -> None:
        """A line for the first micro-batch of each step of this worker."""
        if position == self._told or dist.get_backend() == "fake":
            return
        self._told = position
        row = [position, dist.get_world_size(), dist.get_rank(), sight]
        name = f"{os.environ['CONCERTINA_POD']}-{os.environ['CONCERTINA_INCARNATION']}.jsonl"
        try:
            self.folder.mkdir(exist_ok=True)
            with (self.folder / name).open("a") as file:
                file.write(f"{json.dumps(row)}\n")
        except OSError:
            return  # a full disk: what this worker saw in this step is not judged


def checksum(tensors: Any) -> int:
    """Of the bytes of whole tensors, one after the other.

    Of copies: FSDP frees what it gathered, which it cannot while NumPy has a view of it.
    """
    found = 0
    for tensor in tensors:
        found = zlib.crc32(tensor.detach().clone().numpy().tobytes(), found)
    return found
