"""What the steps of one round run with: live objects, and what is attached to them.

The rounds (loop/rounds.py) make one when a round begins or its state is replaced, and let it go
when the round ends; nothing else keeps it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch

from concertina_trainer.data.loader import Loader
from concertina_trainer.loop.live import Live
from concertina_trainer.loop.waits import Waits
from concertina_trainer.rounds.control import Control
from concertina_trainer.sharding.collect import buffer_names
from concertina_trainer.statistics.buffers import BufferMean
from concertina_trainer.statistics.probe import GradientProbe


@dataclass(kw_only=True)
class World:
    """The objects of one round; `buffers` and what is cached belong to its very model."""

    live: Live
    control: Control
    loader: Loader
    device: torch.device
    before_update: Callable[[], None]
    """Called before parameters change."""
    buffers: BufferMean = field(init=False)
    """Of the values they have when the round begins."""
    waits: Waits = field(init=False)
    """Attached before anything is gathered."""

    def __post_init__(self) -> None:
        self.buffers = BufferMean(buffer_names(self.live.model))
        self.waits = Waits(self.live.model, self.live.groups)

    @cached_property
    def probe(self) -> GradientProbe:
        """Attached in the round's first step, because that gathers every parameter: a collective."""
        return GradientProbe(self.live.model)
