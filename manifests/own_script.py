"""A script that drives the training loop itself, with an optimizer and a loss of its own.

The job is 07-own-script.yaml. Two spirals in the plane are told apart; labels are smoothed at the
start of the run and sharp at its end, which a loss that sees nothing but its batch could not do.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from concertina_trainer import Loss, Task, session

FIRST_SMOOTHING = 0.2
SMOOTHED_SAMPLES = 8192


class Spirals(Task):
    """Which of two spirals a point lies on; loss in nats and accuracy per point."""

    def build(self) -> nn.Module:
        """Two hidden layers."""
        layers = [nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)]
        return nn.Sequential(*layers)

    def dataset(self) -> torch.utils.data.TensorDataset:
        """The same points on every worker and after every restart."""
        return spirals(4096, seed=0)

    def evaluation(self) -> Mapping[str, torch.utils.data.TensorDataset]:
        """Other points."""
        return {"validation": spirals(512, seed=1)}

    def optimizer(
        self, named_parameters: Iterable[tuple[str, nn.Parameter]]
    ) -> torch.optim.Optimizer:
        """SGD with momentum; the loop sets the rate, `lr_scale` is a group's own factor on it."""
        named = dict(named_parameters)
        last = [parameter for name, parameter in named.items() if name.startswith("4.")]
        others = [parameter for name, parameter in named.items() if not name.startswith("4.")]
        groups = [{"params": others}, {"params": last, "lr_scale": 0.5}]
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor], smoothing: float = 0.0) -> Loss:
        """Cross entropy, summed over points; evaluation calls it as it is."""
        points, labels = batch
        logits = model(points)
        total = nn.functional.cross_entropy(
            logits, labels, reduction="sum", label_smoothing=smoothing
        )
        right = (logits.argmax(dim=1) == labels).sum()
        return Loss(total, weight=len(labels), metrics={"accuracy": right})


def spirals(count: int, *, seed: int) -> torch.utils.data.TensorDataset:
    """Points (count, 2) with their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    radius = torch.rand(count, generator=generator).sqrt()
    angle = 1.5 * math.pi * radius + math.pi * labels
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return torch.utils.data.TensorDataset(
        points + 0.05 * torch.randn(count, 2, generator=generator), labels
    )


def smoothing_at(samples: int) -> float:
    """What changes in the course of a run follows from the samples, so that resizes leave it alone."""
    return FIRST_SMOOTHING * max(0.0, 1 - samples / SMOOTHED_SAMPLES)


def main() -> None:
    """One worker: every process of every pod runs this."""
    task = Spirals()
    with session("manifests/07-own-script.yaml", task) as training:
        for step in training:  # a resize may happen between two turns
            smoothing = smoothing_at(training.progress.samples)
            with step:  # leaving it finishes the step
                for batch in step.micro_batches():
                    step.backward(task.loss(step.model, batch, smoothing))


if __name__ == "__main__":
    main()
