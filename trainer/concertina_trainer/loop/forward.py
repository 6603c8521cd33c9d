"""What a forward pass starts from: its batch on the device, its generators seeded.

Called by the step, the evaluation and the warm-up.
"""

from typing import Any

import torch


def seed_forward(seed: int, device: torch.device) -> None:
    """Seed the generators that a forward pass draws from.

    torch.manual_seed seeds those of every backend, and formats a stack trace for each that is not
    initialised: milliseconds per micro-batch.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def on_device(batch: Any, device: torch.device) -> Any:
    """The same structure with its tensors on `device`."""
    match batch:
        case torch.Tensor():
            return batch.to(device, non_blocking=True)
        case dict():
            return {key: on_device(value, device) for key, value in batch.items()}
        case tuple() if hasattr(batch, "_fields"):
            return type(batch)(*(on_device(value, device) for value in batch))
        case list() | tuple():
            return type(batch)(on_device(value, device) for value in batch)
        case _:
            return batch
