"""How a held part of the state is told to the other participants of a round.

Called by the keeper (loop/keeper.py) for its greeting. What must be equal on all ranks is told by
checksums, and what may differ in the last bits by norms; rounds/agreement.py compares them.
"""

import json
import zlib

import torch

from concertina_trainer.rounds.agreement import Part
from concertina_trainer.sharding.state import Holding, Kind


def part_of(held: Holding) -> Part:
    """The part that is `held`, without its rows."""
    return Part(
        round=held.round,
        step=held.step,
        world_size=held.world_size,
        rank=held.rank,
        replicated=_checksums(held),
        norms=_norms(held),
    )


def _checksums(held: Holding) -> dict[str, int]:
    """Of what is equal on all ranks to the last bit: progress, optimizer options, buffers."""
    sums = {
        key: zlib.crc32(json.dumps(value, sort_keys=True).encode())
        for key, value in held.extra.items()
    }
    for name in _replicated(held, "buffer/"):
        data = held.tensors[name].contiguous().flatten().view(torch.uint8)
        sums["buffer"] = zlib.crc32(data.cpu().numpy().tobytes(), sums.get("buffer", 0))
    return sums


def _norms(held: Holding) -> dict[str, float]:
    """Of the optimizer's replicated tensors, by key."""
    squares: dict[str, float] = {}
    for name in _replicated(held, "optimizer/"):
        key = f"optimizer state {name.rpartition('/')[2]}"
        value = held.tensors[name].double().norm().item()
        squares[key] = squares.get(key, 0.0) + value**2
    return {key: value**0.5 for key, value in squares.items()}


def _replicated(held: Holding, prefix: str) -> list[str]:
    return [
        name
        for name, entry in held.entries.items()
        if entry.kind is Kind.REPLICATED and name.startswith(prefix)
    ]
