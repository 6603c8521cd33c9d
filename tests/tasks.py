"""Tasks for tests of the training loop: real models, data made from the sample number."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from concertina_trainer.task import Loss, MapDataset, StopTraining, Task
from tests.models import TinyLM, checkpoint_activations, compile_blocks, loss_sum, seeded, tokens

HOGGED_NUMBERS = 2**30
"""Of 4 bytes each."""
OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, weight_decay=0.1),
    "SGD": lambda p: torch.optim.SGD(p, momentum=0.9, lr=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p),
    "NAdam": lambda p: torch.optim.NAdam(p),
}


class Tokens:
    """Random tokens, a function of the index; optionally slow to load."""

    def __init__(self, size: int, *, seconds: float = 0.0) -> None:
        self.size = size
        self.seconds = seconds

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        if self.seconds:
            deadline = time.monotonic() + self.seconds
            while (left := deadline - time.monotonic()) > 0:
                time.sleep(left)  # the load itself, not a wait for a condition
        return index, tokens(index, 1)[0]


class Preconditioned(Optimizer):
    """Row-preconditioned descent with a replicated matrix per parameter (kind b of the state)."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float = 1e-3) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                full = parameter.grad.full_tensor().float()
                flat = full.reshape(full.shape[0], -1)
                if "covariance" not in state:
                    state["covariance"] = torch.zeros(flat.shape[1], flat.shape[1])
                state["covariance"].mul_(0.9).add_(flat.T @ flat, alpha=0.1)
                scale = state["covariance"].diagonal().mean().sqrt() + 1e-3
                parameter.add_(parameter.grad, alpha=-group["lr"] / scale.item())


class TinyTask(Task):
    """TinyLM on random tokens; every awkwardness can be switched on by config."""

    def __init__(
        self,
        *,
        optimizer: str = "AdamW",
        dropout: float = 0.0,
        size: int = 4096,
        seconds: float = 0.0,
        compiled: bool = False,
        checkpointed: bool = False,
        batch_norm: bool = False,
        step_seconds: float = 0.0,
        poison: tuple[int, ...] = (),
        stop_at: int | None = None,
        fail_at: int | None = None,
        hog_at: int | None = None,
        evaluation_size: int = 0,
        layers: int = 3,
        width: int = 66,
        token_weights: bool = False,
    ) -> None:
        self.optimizer_name = optimizer
        self.dropout = dropout
        self.size = size
        self.seconds = seconds
        self.compiled = compiled
        self.checkpointed = checkpointed
        self.batch_norm = batch_norm
        self.step_seconds = step_seconds
        self.poison = set(poison)
        self.stop_at = stop_at
        self.fail_at = fail_at
        self.hog_at = hog_at
        self.evaluation_size = evaluation_size
        self.layers = layers
        self.width = width
        self.token_weights = token_weights

    def build(self) -> nn.Module:
        model = TinyLM(layers=self.layers, width=self.width)
        if self.batch_norm:
            model.norm = Normed(self.width)
        if not model.positions.is_meta:
            values = seeded(layers=self.layers, width=self.width).state_dict()
            model.load_state_dict(values, strict=not self.batch_norm)
        return model

    def prepare(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, TinyLM)
        if self.checkpointed:
            checkpoint_activations(model)
        if self.compiled:
            compile_blocks(model)
        return model

    def dataset(self) -> MapDataset:
        return Tokens(self.size, seconds=self.seconds)

    def evaluation(self) -> Mapping[str, MapDataset]:
        return {"held_out": Tokens(self.evaluation_size)} if self.evaluation_size else {}

    def loss(self, model: nn.Module, batch: Any) -> Loss:
        indices, ids = batch
        if self.step_seconds:
            deadline = time.monotonic() + self.step_seconds
            while (left := deadline - time.monotonic()) > 0:
                time.sleep(left)  # a slow forward pass
        inputs = ids
        total = loss_sum(model, inputs)
        if self.dropout and model.training:
            total = nn.functional.dropout(total.expand(64), self.dropout).mean()
        if model.training and self.poison & set(indices.tolist()):
            total = total * float("nan")
        weight = float(len(ids))
        if self.token_weights:
            # Uneven weights: samples of an odd index count three times.
            factor = 1.0 + 2.0 * float(indices[0] % 2)
            total, weight = total * factor, weight * factor
        return Loss(total, weight, {"odd": (indices % 2).sum().double()})

    def optimizer(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
        named = list(named_parameters)
        parameters = [p for _, p in named]
        if self.optimizer_name == "Muon":
            return _MuonAndAdam(parameters)
        if self.optimizer_name == "Preconditioned":
            return Preconditioned(parameters)
        if self.optimizer_name == "LBFGS":
            return torch.optim.LBFGS(parameters)
        return OPTIMIZERS[self.optimizer_name](parameters)

    def on_step(self, record: Mapping[str, Any]) -> StopTraining | None:
        if self.fail_at is not None and record.get("step", 0) >= self.fail_at:
            raise ValueError(f"the task fails at step {record['step']}")
        if self.hog_at is not None and record.get("step", 0) >= self.hog_at:
            torch.ones(HOGGED_NUMBERS)  # held by nobody, but written
        if self.stop_at is not None and record.get("step", 0) >= self.stop_at:
            return StopTraining("far enough")
        return None


class Normed(nn.Module):
    """Batch norm over samples and positions, in the place of a layer norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class _MuonAndAdam(torch.optim.Muon):
    """Muon takes matrices only; the other parameters stay as they are."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__([p for p in parameters if p.ndim == 2], lr=1e-3)


def long_steps(*, pods: int, micro_batches: int) -> dict[str, Any]:
    """spec.batch of steps with so many micro-batches of two samples in each of so many pods."""
    batch = 2 * micro_batches * pods
    return {
        "microBatchSize": 2,
        "initial": batch,
        "max": batch,
        "maxAccumulation": micro_batches,
        "rule": {"name": "Fixed"},
    }


def job_document(**changes: Any) -> dict[str, Any]:
    """A small job as a manifest; `changes` replace parts of the spec."""
    spec: dict[str, Any] = {
        "model": "tests.tasks:TinyTask",
        "samples": 64,
        "batch": {"microBatchSize": 2, "initial": 8, "max": 8, "rule": {"name": "Fixed"}},
        "learningRate": {"peak": 1e-3, "schedule": "Constant"},
        "pods": {"min": 1, "max": 4},
        "checkpoint": {"path": "checkpoints", "everySeconds": None},
    }
    return {
        "apiVersion": "concertina.dev/v1alpha1",
        "kind": "AdaptiveTrainingJob",
        "metadata": {"name": "tiny"},
        "spec": {**spec, **changes},
    }
