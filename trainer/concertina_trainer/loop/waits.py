"""Waits for the others in the collectives of a sharded model, and measures how long.

FSDP2's all-gathers and reduce-scatters block the caller on the CPU, and whoever comes last to one
does not wait. On CUDA they return at once: nothing is measured there, and nobody is called slow.
Used by the step; loop/slow.py makes of it who is slow, and rounds/waiting.py says why gloo's own
waiting will not do.

Private names of torch 2.15: the communication objects that an FSDP2 module uses unless it was
given others.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import (
    DefaultAllGather,
    DefaultReduceScatter,
)

from concertina_trainer.rounds.transport import Groups
from concertina_trainer.rounds.waiting import finish


class Waits:
    """The time that this worker has spent in collectives since it was last taken."""

    def __init__(self, model: nn.Module, groups: Groups) -> None:
        self._seconds = 0.0
        self._groups = groups
        for module in model.modules():
            if isinstance(module, FSDPModule):
                self._attach(module)

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    @contextmanager
    def counted(self) -> Iterator[None]:
        """What is done inside is waiting."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - start

    def finish(self, work: dist.Work | None) -> None:
        """Wait for a collective on the model's group."""
        with self.counted():
            finish(work, self._groups)

    def _attach(self, module: FSDPModule) -> None:
        groups = module._get_fsdp_state()._fsdp_param_groups
        if len(groups) != 1:
            return
        # What the task has chosen itself stays; what is ours is of the rounds before.
        if type(groups[0]._all_gather_comm) in (DefaultAllGather, _AllGather):
            module.set_custom_all_gather(_AllGather(self))
        if type(groups[0]._reduce_scatter_comm) in (DefaultReduceScatter, _ReduceScatter):
            module.set_custom_reduce_scatter(_ReduceScatter(self))


class _AllGather(DefaultAllGather):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,  # noqa: FBT001, FBT002 - as torch has it
    ) -> dist.Work | None:
        if dist.get_backend(group) != "gloo":
            return super().__call__(output_tensor, input_tensor, group, async_op)
        # Also when it may be waited for later, which would be FSDP's own waiting.
        self._waits.finish(super().__call__(output_tensor, input_tensor, group, async_op=True))
        return None


class _ReduceScatter(DefaultReduceScatter):
    """With gloo, an all-reduce: gloo's own is one, too, but ignores how long it is waited for.

    It copies its input before; here the input is left as what it is for all ranks.
    """

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,  # noqa: FBT001, FBT002 - as torch has it
    ) -> dist.Work | None:
        if dist.get_backend(group) != "gloo":
            return super().__call__(output_tensor, input_tensor, group, op, async_op)
        self._waits.finish(dist.all_reduce(input_tensor, op=op, group=group, async_op=True))
        output_tensor.copy_(
            input_tensor.view(group.size(), -1)[group.rank()].view_as(output_tensor)
        )
        return None
