"""Buffers that the forward pass changes (batch norm), made independent of the world size.

Each micro-batch starts from the step's value; the step ends with that value plus the mean over
its real micro-batches of the changes, and integer counters advance by one. So batch statistics
are per micro-batch ("ghost" batch norm, Hoffer et al. 2017, arXiv 1705.08741) at any world size.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from concertina_api.errors import InvalidJob
from concertina_trainer.rounds.transport import Groups
from concertina_trainer.rounds.waiting import finish


class BufferMean:
    """Collects the changes of one step.

    Which buffers change shows in their versions; but batch norm's kernel changes running
    statistics without a new version, so after the first micro-batch values are compared once.
    """

    def __init__(self, buffers: Mapping[str, torch.Tensor]) -> None:
        self._buffers = dict(buffers)
        self._base = {name: buffer.clone() for name, buffer in self._buffers.items()}
        self._version = {name: buffer._version for name, buffer in self._buffers.items()}
        self._silent: frozenset[str] | None = None
        """Buffers that change without a new version; None before the first micro-batch."""
        self._changes: dict[str, torch.Tensor] = {}
        self._counters: set[str] = set()

    def end_micro_batch(self, *, weight: float) -> None:
        """Note what the micro-batch changed, times `weight` (0 for a repeat), and take it back."""
        if self._silent is None:
            self._silent = frozenset(
                name
                for name, buffer in self._buffers.items()
                if buffer._version == self._version[name]
                and not torch.equal(buffer, self._base[name])
            )
        for name, buffer in self._buffers.items():
            if buffer._version == self._version[name] and name not in self._silent:
                continue
            if buffer.is_floating_point():
                change = (buffer.double() - self._base[name].double()) * weight
                seen = self._changes.get(name)
                self._changes[name] = change if seen is None else seen + change
            elif buffer.dtype in (torch.int64, torch.int32):
                self._counters.add(name)
            else:
                raise InvalidJob(
                    f"buffer {name} of type {buffer.dtype} changes in the forward pass; only"
                    " float and integer buffers can be carried"
                )
            self._restore(name)

    def presence(self) -> list[float]:
        """1 for each buffer that this rank has seen change in the step, in a fixed order.

        Summed over ranks it says which buffers changed anywhere: `end_step` needs to know.
        """
        return [float(name in self._changes or name in self._counters) for name in self._buffers]

    def end_step(
        self, presence: Sequence[float], groups: Groups, *, num_micro_batches: int
    ) -> None:
        """Apply the mean change over all ranks. Collective when any float buffer changed."""
        changed = [n for n, seen in zip(self._buffers, presence, strict=True) if seen]
        floats = [name for name in changed if self._buffers[name].is_floating_point()]
        if floats:
            flat = torch.cat([self._change(name).flatten() for name in floats])
            finish(dist.all_reduce(flat, async_op=True), groups)
            flat /= num_micro_batches
            parts = torch.split(flat, [self._buffers[name].numel() for name in floats])
            for name, part in zip(floats, parts, strict=True):
                base = self._base[name]
                base.copy_(base.double() + part.view_as(base))
        for name in changed:
            if name not in floats:
                self._base[name] += 1
            self._restore(name)
        self.discard()

    def _change(self, name: str) -> torch.Tensor:
        seen = self._changes.get(name)
        return torch.zeros_like(self._base[name], dtype=torch.float64) if seen is None else seen

    def discard(self) -> None:
        """Forget the step: its buffers are back at the step's value."""
        self._changes.clear()
        self._counters.clear()

    @torch.no_grad()
    def _restore(self, name: str) -> None:
        self._buffers[name].copy_(self._base[name])
        self._version[name] = self._buffers[name]._version
