"""Handwritten digits (8 x 8 pixels, from scikit-learn) with batch norm and augmentation.

It shows two things that language models do not need. Batch norm takes its statistics over one
micro-batch, whatever the global batch and the world size; the loop gives the running statistics
the mean change of the step's micro-batches. Augmentation draws from the sample's own generator.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped] # has no types
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from concertina_trainer.task import Loss, Task

HELD_OUT_OF = 5
"""One image in this many is for validation."""


class Images:
    """Images (1, 8, 8) in [0, 1] with their labels."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]


class ShiftedImages:
    """The same, each shifted at random by up to `pixels` in both directions."""

    def __init__(self, images: Images, *, pixels: int) -> None:
        self._images = images
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._images)

    def item(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Image `index`, with the shift drawn from `generator`."""
        image, label = self._images[index]
        around = pad(image, [self._pixels] * 4)
        offsets = torch.randint(2 * self._pixels + 1, (2,), generator=generator)
        down, right = offsets.tolist()
        return around[:, down : down + 8, right : right + 8], label


class Classifier(nn.Module):
    """Images (batch, 1, 8, 8) to logits (batch, 10)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, padding=1, stride=2, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * channels, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the ten digits."""
        logits: Tensor = self.layers(images)
        return logits


class Digits(Task):
    """Tell which digit an image shows; loss in nats and accuracy per image."""

    def __init__(self, *, channels: int = 16, shift_pixels: int = 1) -> None:
        self.channels = channels
        self.shift_pixels = shift_pixels

    def build(self) -> nn.Module:
        """The classifier."""
        return Classifier(self.channels)

    def dataset(self) -> ShiftedImages:
        """Four fifths of the images, shifted at random."""
        return ShiftedImages(split_digits().training, pixels=self.shift_pixels)

    def evaluation(self) -> Mapping[str, Images]:
        """The other fifth, as they are."""
        return {"validation": split_digits().validation}

    def loss(self, model: nn.Module, batch: Any) -> Loss:
        """Cross entropy, summed over images."""
        images, labels = batch
        logits = model(images)
        right = (logits.argmax(dim=1) == labels).sum()
        total = cross_entropy(logits.float(), labels, reduction="sum")
        return Loss(total, weight=len(labels), metrics={"accuracy": right})


class Split(NamedTuple):
    """The two parts of the images."""

    training: Images
    validation: Images


def split_digits() -> Split:
    """All 1,797 images of scikit-learn; every fifth one is held out."""
    found = load_digits()
    images = torch.as_tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.as_tensor(found.target)
    held_out = torch.arange(len(labels)) % HELD_OUT_OF == 0
    return Split(
        training=Images(images[~held_out], labels[~held_out]),
        validation=Images(images[held_out], labels[held_out]),
    )
