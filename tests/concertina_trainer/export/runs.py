"""Runs to export: a task, and the state of its model saved by a world of two workers."""

from pathlib import Path

import torch
import yaml
from torch import nn

from concertina_trainer.checkpoint.format import origin
from concertina_trainer.checkpoint.writer import Writer
from concertina_trainer.sharding.collect import buffer_names, parameter_names
from concertina_trainer.sharding.layout import row_range
from concertina_trainer.sharding.restore import whole
from concertina_trainer.sharding.state import Holding, Kind
from concertina_trainer.task import Loss, Task
from tests.models import TinyLM

OPTIONS = {"vocab": 11, "width": 6, "context": 5}


class TinyTask(Task):
    """Tied, frozen and uneven tensors, a persistent and a non-persistent buffer; no data."""

    def build(self) -> nn.Module:
        return TinyLM(**OPTIONS)

    def dataset(self):
        return []

    def loss(self, model: nn.Module, batch: torch.Tensor) -> Loss:
        raise NotImplementedError


def save_model(path: Path, model: nn.Module, *, job: str, average: float | None = None) -> Path:
    """Save a model's state after step 3; the average of a parameter is `average` times it."""
    tensors = {f"model/{name}": value.detach() for name, value in parameter_names(model).items()}
    if average is not None:
        tensors |= {
            f"average/{name}": value.detach() * average
            for name, value in parameter_names(model).items()
            if value.requires_grad
        }
    tensors |= {f"buffer/{name}": value.detach() for name, value in buffer_names(model).items()}
    writers = [Writer(path, job=job, keep=3) for _ in range(2)]
    for rank, writer in enumerate(writers):
        writer.save(part(tensors, rank), origin=origin(["a", "b"]), may_publish=lambda: True)
    for writer in writers:
        assert writer.wait(60)
        assert writer.failures == 0, writer.last_failure
        writer.close()
    assert writers[0].last_saved is not None
    return Path(writers[0].last_saved.path)


def part(tensors: dict[str, torch.Tensor], rank: int) -> Holding:
    """What a rank of two holds of these tensors."""
    entries = whole(tensors).entries
    rows = {}
    for name, tensor in tensors.items():
        rows[name] = tensor
        if entries[name].kind is Kind.SHARDED:
            start, stop = row_range(len(tensor), world_size=2, rank=rank)
            rows[name] = tensor[start:stop]
    return Holding(
        round=1,
        step=3,
        world_size=2,
        rank=rank,
        entries=entries,
        tensors=rows,
        extra={"samples": 24},
    )


def write_job(path: Path, *, model: str, config: dict[str, object]) -> None:
    """A manifest, as `concertina run` leaves it in the run's directory."""
    job = {
        "apiVersion": "concertina.dev/v1alpha1",
        "kind": "AdaptiveTrainingJob",
        "metadata": {"name": "tiny"},
        "spec": {
            "model": model,
            "config": config,
            "samples": 100,
            "batch": {"microBatchSize": 1, "initial": 1, "max": 1},
            "learningRate": {"peak": 1e-3},
            "pods": {"min": 1, "max": 1},
        },
    }
    path.write_text(yaml.safe_dump(job))
