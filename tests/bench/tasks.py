"""The benches' models as tasks of a manifest, and the manifests themselves."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from concertina_trainer.task import Loss, MapDataset, Task
from tests.bench.models import SIZES, RandomTokens, Transformer, adamw, loss_sum

JOB = "bench"
"""The name of every job here."""


class SizedLM(Task):
    """A transformer of a named size on random tokens."""

    def __init__(self, *, size: str, tokens: int = 128) -> None:
        """`tokens`: length of a sample, at most the context of the model."""
        self.size = SIZES[size]
        self.tokens = min(tokens, self.size.context)

    def build(self) -> nn.Module:
        return Transformer(self.size)

    def dataset(self) -> MapDataset:
        return RandomTokens(vocabulary=self.size.vocabulary, context=self.tokens)

    def loss(self, model: nn.Module, batch: Tensor) -> Loss:
        return Loss(loss_sum(model, batch), weight=batch[:, 1:].numel())

    def optimizer(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
        return adamw(parameter for _, parameter in named_parameters)


def document(
    model: str,
    config: Mapping[str, Any],
    *,
    samples: int,
    micro_batch_size: int,
    batch: int,
    **changes: Any,
) -> dict[str, Any]:
    """A manifest with a constant batch; `changes` replace parts of the spec."""
    spec: dict[str, Any] = {
        "model": model,
        "config": dict(config),
        "samples": samples,
        "batch": {
            "microBatchSize": micro_batch_size,
            "initial": batch,
            "max": batch,
            "rule": {"name": "Fixed"},
        },
        "learningRate": {"peak": 1e-4, "schedule": "Constant"},
        "training": {"gradientClip": 1.0},
        "pods": {"min": 1, "max": 4},
        "checkpoint": {"path": "checkpoints", "everySeconds": None},
    }
    return {
        "apiVersion": "concertina.dev/v1alpha1",
        "kind": "AdaptiveTrainingJob",
        "metadata": {"name": JOB},
        "spec": {**spec, **changes},
    }


def sized(size: str, *, tokens: int = 128, **changes: Any) -> dict[str, Any]:
    """A manifest that trains a model of a named size."""
    given: dict[str, Any] = {"samples": 10**9, "micro_batch_size": 1, "batch": 2} | changes
    return document("tests.bench.tasks:SizedLM", {"size": size, "tokens": tokens}, **given)
