"""Tasks for end-to-end tests, beside those of tests/tasks.py."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer

from concertina_api.v1alpha1.job import Precision
from concertina_trainer.task import Loss, MapDataset, StopTraining
from tests.tasks import TinyTask


class UntilTold(TinyTask):
    """Trains until the file `stop` appears in its folder."""

    def __init__(self, *, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self.folder = Path(folder)

    def on_step(self, record: Mapping[str, Any]) -> StopTraining | None:
        if (self.folder / "stop").exists():
            return StopTraining("told to")
        return super().on_step(record)

    def tokens_per_sample(self) -> int:
        return 12


class Held(UntilTold):
    """A worker that starts is not warm as long as the file `hold` is in its folder."""

    def build(self) -> nn.Module:
        while (self.folder / "hold").exists():
            time.sleep(0.05)  # until the test lets it go
        return super().build()


class Patient(TinyTask):
    """Slow as long as a worker runs more micro-batches than it should: pods have time to start."""

    def __init__(self, *, accumulation: int, slow_seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self.accumulation = accumulation
        self.slow_seconds = slow_seconds

    def on_step(self, record: Mapping[str, Any]) -> StopTraining | None:
        if record.get("num_micro_batches", 0) > self.accumulation * record.get("world_size", 1):
            time.sleep(self.slow_seconds)  # a step that so few workers take long for
        return super().on_step(record)


class _History(Optimizer):
    """Plain descent that keeps a list of tensors, which cannot be cut into rows."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-group["lr"])
                    self.state[parameter].setdefault("history", []).append(parameter.grad.clone())


class ListOptimizer(TinyTask):
    """Its optimizer's state cannot move."""

    def optimizer(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
        return _History([parameter for _, parameter in named_parameters])


class Replicated(TinyTask):
    """Leaves the root's parameters whole on every worker."""

    def shard(self, model: nn.Module, mesh: DeviceMesh, *, precision: Precision) -> None:
        assert precision is Precision.FLOAT32
        for block in model.blocks:  # type: ignore[union-attr]
            fully_shard(block, mesh=mesh)


class Hybrid(TinyTask):
    """Shards over one dimension of a mesh and replicates over the other."""

    def shard(self, model: nn.Module, mesh: DeviceMesh, *, precision: Precision) -> None:
        assert precision is Precision.FLOAT32
        grid = init_device_mesh("cpu", (1, mesh.size()), mesh_dim_names=("replicate", "shard"))
        fully_shard(model, mesh=grid)


class NotOnMeta(TinyTask):
    """Looks at the values of its parameters while it is built."""

    def build(self) -> nn.Module:
        model = super().build()
        assert float(next(model.parameters()).sum()) != 0.5
        return model


class WithAdafactor(TinyTask):
    """Uses an optimizer that torch cannot run on sharded parameters."""

    def optimizer(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
        return torch.optim.Adafactor([parameter for _, parameter in named_parameters])


class Unreadable(TinyTask):
    """One sample of its data set cannot be read, whoever tries."""

    def __init__(self, *, broken: int, **options: Any) -> None:
        super().__init__(**options)
        self.broken = broken

    def dataset(self) -> MapDataset:
        return _Broken(super().dataset(), self.broken)


class _Broken:
    """A data set with one sample that cannot be read."""

    def __init__(self, whole: MapDataset, broken: int) -> None:
        self._whole = whole
        self._broken = broken

    def __len__(self) -> int:
        return len(self._whole)

    def __getitem__(self, index: int) -> Any:
        if index == self._broken:
            raise KeyError(f"no label in record {index}")
        return self._whole[index]


class Spiky(TinyTask):
    """The loss of some samples is many times what it should be."""

    def __init__(self, *, spikes: list[int], **options: Any) -> None:
        super().__init__(**options)
        self.spikes = set(spikes)

    def loss(self, model: nn.Module, batch: Any) -> Loss:
        loss = super().loss(model, batch)
        factor = 5.0 if model.training and self.spikes & set(batch[0].tolist()) else 1.0
        return replace(loss, total=loss.total * factor)
