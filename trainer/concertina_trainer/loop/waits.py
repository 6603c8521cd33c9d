"""Measures how long a worker waits for the others in the collectives of a sharded model.

FSDP2's all-gathers and reduce-scatters block the caller on the CPU, and whoever comes last to one
does not wait. On CUDA they return at once: nothing is measured there, and nobody is called slow.
Used by the step; loop/slow.py makes of it who is slow.

Private names of torch 2.15: the communication objects that an FSDP2 module uses unless it was
given others.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import (
    DefaultAllGather,
    DefaultReduceScatter,
)


class Waits:
    """The time that this worker has spent in collectives since it was last taken."""

    def __init__(self, model: nn.Module) -> None:
        self._seconds = 0.0
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

    def _attach(self, module: FSDPModule) -> None:
        groups = module._get_fsdp_state()._fsdp_param_groups
        # What the task has chosen itself stays.
        if len(groups) == 1 and type(groups[0]._all_gather_comm) is DefaultAllGather:
            module.set_custom_all_gather(_AllGather(self))
        if len(groups) == 1 and type(groups[0]._reduce_scatter_comm) is DefaultReduceScatter:
            module.set_custom_reduce_scatter(_ReduceScatter(self))


class _AllGather(DefaultAllGather):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._waits.counted():
            return super().__call__(*args, **kwargs)


class _ReduceScatter(DefaultReduceScatter):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._waits.counted():
            return super().__call__(*args, **kwargs)
