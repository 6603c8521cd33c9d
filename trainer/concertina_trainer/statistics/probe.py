"""Measures the gradient of each micro-batch on its own, before anything is reduced.

The loop attaches one probe to the model of a round and reads one number per step. Hooks sit on the
unsharded leaf parameters, so the same code serves plain modules, DDP, FSDP2, HSDP, accumulation
with and without synchronisation, tied weights and recomputed activations: a leaf's hook runs once
per backward pass with that pass's whole gradient. Nothing is copied and the host never waits.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from concertina_trainer.statistics.norms import block_norms, sum_of_squares


class GradientProbe:
    """Sums |gradient|^2 / weight over the micro-batches of a step, on this rank.

    Attach it after parameters have their values and before the first backward pass of a round; a
    rebuilt model needs a new one. Attaching gathers each FSDP group once: a collective.
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = list(_unsharded_leaves(model))
        device = parameters[0].device if parameters else None
        self._norms: list[Tensor] = []
        """Of the gradients of the micro-batch under way, by blocks."""
        self._sum = torch.zeros((), dtype=torch.float64, device=device)
        self._measuring = False
        self._handles: list[RemovableHandle] = [
            parameter.register_hook(self._add)  # type: ignore[no-untyped-call]  # torch has no types here
            for parameter in parameters
        ]

    @contextmanager
    def micro_batch(self, weight: float | Tensor) -> Iterator[None]:
        """Measures the one backward pass inside, of a micro-batch's summed loss.

        `weight` is what the sum counts (samples or target tokens), a number or a device scalar. A
        weight of zero adds nothing. Backward passes outside are not seen: repeats that only keep
        collectives in step.
        """
        self._norms.clear()
        self._measuring = True
        try:
            yield
        finally:
            self._measuring = False
        if self._norms:
            self._sum += _quotient(sum_of_squares(self._norms), weight)
            self._norms.clear()

    def take(self) -> Tensor:
        """The sum since the last call (R of schedule/estimator.py, this rank's part); starts anew.

        A float64 scalar on the model's device.
        """
        taken = self._sum
        self._sum = torch.zeros_like(taken)
        return taken

    def detach(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _add(self, gradient: Tensor) -> None:
        # A hook that returned a tensor would replace the gradient.
        if self._measuring:
            self._norms.append(block_norms(gradient))


def _unsharded_leaves(model: nn.Module) -> Iterator[nn.Parameter]:
    """Each trainable parameter once, as the leaf that backward passes accumulate into."""
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.unshard()
            yield from _new_leaves(module, seen)
            module.reshard()
    yield from _new_leaves(model, seen)


def _new_leaves(module: nn.Module, seen: set[int]) -> Iterator[nn.Parameter]:
    for parameter in module.parameters():
        # A DTensor here belongs to a group that is not gathered now: a nested one.
        if isinstance(parameter, DTensor) or not parameter.requires_grad or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        yield parameter


def _quotient(squares: Tensor, weight: float | Tensor) -> Tensor:
    if isinstance(weight, Tensor):
        return torch.where(weight > 0, squares / weight, 0.0)
    return squares / weight if weight > 0 else torch.zeros_like(squares)
