"""The objects that train in one round: model, optimizer, average.

The keeper (loop/keeper.py) builds them and turns them into held rows when the round ends; steps
change them.
"""

from dataclasses import dataclass, field

import torch
from torch import nn

from concertina_trainer.rounds.transport import Groups
from concertina_trainer.sharding.collect import local_rows, parameter_names


@dataclass(slots=True, kw_only=True)
class Live:
    """The objects that train in one round."""

    round: int
    groups: Groups
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, torch.Tensor]
    """Local rows of the averaged parameters, by name; empty without averaging."""
    parameters: list[nn.Parameter] = field(init=False)
    """Trainable parameters."""

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    @torch.no_grad()
    def update_average(self, weight: float) -> None:
        """average <- (1 - weight) average + weight parameters."""
        parameters = parameter_names(self.model)
        rows = [local_rows(name, parameters[name]) for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), rows, weight)
