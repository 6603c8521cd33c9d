"""A task whose rank 1 of three ends by SIGKILL while the optimizer changes parameters."""

import os
import signal
from collections.abc import Iterable

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from tests.tasks import Preconditioned, TinyTask

LAST_STEP = 7


class DyingOptimizer(Preconditioned):
    """Its step is a collective, which the others have begun by then."""

    steps = 0

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.steps += 1
        if self.steps == LAST_STEP and (dist.get_rank(), dist.get_world_size()) == (1, 3):
            os.kill(os.getpid(), signal.SIGKILL)
        super().step(closure)


class DyingTask(TinyTask):
    def optimizer(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
        return DyingOptimizer([parameter for _, parameter in named_parameters])
