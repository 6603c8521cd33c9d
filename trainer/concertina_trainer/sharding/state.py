"""The training state as data: what one worker holds of it at one moment.

The live exchange, the checkpoint writer and the checkpoint reader all speak of these types and
of nothing else, so that each can be tested without the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch


class Kind(StrEnum):
    """How a tensor is spread over the workers."""

    SHARDED = "sharded"
    """Each rank holds its row range of dimension 0 (see layout.py)."""
    REPLICATED = "replicated"
    """Every rank holds the whole tensor, equal on all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor of the state.

    Names: `model/<parameter>`, `buffer/<buffer>`, `optimizer/<parameter>/<key>`,
    `average/<parameter>`.
    """

    name: str
    kind: Kind
    dtype: torch.dtype
    shape: tuple[int, ...]
    """Global shape, also for sharded tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one worker holds of a training state after a step."""

    round: int
    """Round in which the state was last trained."""
    step: int
    """Optimizer steps taken."""
    world_size: int
    """World size by which sharded tensors are split."""
    rank: int
    """Which part of the sharded tensors is here."""
    entries: Mapping[str, Entry]
    """All tensors of the state, by name, in the order of the model's FSDP groups."""
    tensors: Mapping[str, torch.Tensor]
    """Local rows of sharded tensors (possibly none), whole replicated tensors."""
    extra: Mapping[str, Any]
    """JSON values equal on all ranks: samples, schedule, statistics, optimizer options."""
