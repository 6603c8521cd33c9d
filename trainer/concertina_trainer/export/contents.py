"""What leaves in an export: which tensors, under which names, read one at a time.

Called by the command; the formats take the result. Tensors are read from the checkpoint when a
format asks for them, so memory holds one at a time, whatever the model's size.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import torch
from torch import nn

from concertina_api.errors import CheckpointInvalid, InvalidJob
from concertina_trainer.checkpoint.names import state_names, tensor_names
from concertina_trainer.checkpoint.reader import Checkpoint, read_whole
from concertina_trainer.checkpoint.tensor_layout import TensorSpec
from concertina_trainer.task import Built


class Weights(StrEnum):
    """Which weights leave."""

    LAST = "last"
    """Those of the last step."""
    AVERAGE = "average"
    """The running average, where there is one; frozen parameters have none and need none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """One tensor of an export."""

    spec: TensorSpec
    read: Callable[[], torch.Tensor]
    """Reads the whole tensor, on CPU. Raises CheckpointInvalid."""


class Source:
    """The tensors of a model in a checkpoint, by their names in the trained model."""

    def __init__(self, checkpoint: Checkpoint, weights: Weights) -> None:
        """Raises InvalidJob when the average is wanted and there is none."""
        self._checkpoint = checkpoint
        self._kinds = ["model/", "buffer/"]
        if weights is Weights.AVERAGE:
            self._kinds.insert(0, "average/")
            if not any(name.startswith("average/") for name in checkpoint.entries):
                raise InvalidJob(
                    f"{checkpoint.location} holds no average: the job has no training.averageDecay"
                )

    def names(self) -> Iterator[str]:
        """Parameters and buffers, each once."""
        for name in self._checkpoint.entries:
            kind, _, rest = name.partition("/")
            if kind in ("model", "buffer"):
                yield rest

    def exported(self, name: str, *, as_name: str) -> Exported:
        """The tensor `name`, to leave as `as_name`. Raises CheckpointInvalid if it is not there."""
        for kind in self._kinds:
            entry = self._checkpoint.entries.get(kind + name)
            if entry is not None:
                spec = TensorSpec(name=as_name, dtype=entry.dtype, shape=entry.shape)
                return Exported(spec=spec, read=partial(read_whole, self._checkpoint, entry))
        raise CheckpointInvalid(
            f"{self._checkpoint.location} has no tensor {name!r}: another model wrote it"
        )


def stored(source: Source) -> list[Exported]:
    """Everything that the checkpoint has of the model, for when there is no task to ask."""
    return [source.exported(name, as_name=name) for name in source.names()]


def as_trained(source: Source, model: nn.Module) -> list[Exported]:
    """The state dict of the trained model: tied names too, buffers only if persistent.

    So that `load_state_dict(..., strict=True)` on a model that was built and prepared takes it.
    """
    return [source.exported(name, as_name=key) for key, name in state_names(model).items()]


def as_built(source: Source, built: Built) -> list[Exported]:
    """The model under the names of `build()`: each tied tensor once, adapters merged into it.

    Raises InvalidJob for a parameter that is neither the model's own nor an adapter's.
    """
    adapters = {
        f"{path}.": module for path, module in built.model.named_modules() if is_adapter(module)
    }
    names = dict(tensor_names(built.model))
    persistent = set(state_names(built.model).values())
    leaving = []
    for raw, name in names.items():
        if name not in persistent:
            continue
        prefix = next((path for path in adapters if raw.startswith(path)), None)
        if raw in built.weight_names:
            own = source.exported(name, as_name=built.weight_names[raw])
            if prefix is not None:
                read = partial(_merged, source, adapters[prefix], prefix, raw, names)
                own = Exported(spec=own.spec, read=read)
            leaving.append(own)
        elif prefix is None:
            raise InvalidJob(f"{name} was added by prepare() and has no place in the built model")
    return leaving


def is_adapter(module: nn.Module) -> bool:
    """Whether a layer wraps another and can add itself to it, as all of peft's tuners do."""
    return hasattr(module, "get_base_layer") and hasattr(module, "merge")


def _merged(
    source: Source, layer: nn.Module, prefix: str, wanted: str, names: Mapping[str, str]
) -> torch.Tensor:
    """The tensor `wanted` of the layer at `prefix`, after its adapter was added to it.

    The layer is on the meta device; a copy of it alone gets values.
    """
    filled: Any = copy.deepcopy(layer).to_empty(device="cpu")
    tensors = {**dict(filled.named_parameters()), **dict(filled.named_buffers())}
    with torch.no_grad():
        for key, tensor in tensors.items():
            name = names[prefix + key]
            tensor.copy_(source.exported(name, as_name=name).read())
        filled.merge(safe_merge=True)
    merged: torch.Tensor = tensors[wanted.removeprefix(prefix)]
    return merged.detach()
