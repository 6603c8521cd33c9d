"""Reads the training state out of live objects: which tensors, whose rows, which options.

The loop calls `hold` at a step boundary, before a resize or a checkpoint; nothing is copied here,
the Holding refers to the live tensors.

Optimizer state is of three kinds: (a) a DTensor with its parameter's shape and placement, whose
rows move; (b) a tensor or number equal on all ranks, which is copied; (c) anything else, which is
refused by name, because no row of it could be moved with confidence.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Shard

from concertina_api.errors import InvalidJob
from concertina_trainer.sharding.state import Entry, Holding, Kind

Number = bool | int | float
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")


def parameter_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name, tied ones once, without the names that wrappers add."""
    return {plain_name(name): parameter for name, parameter in model.named_parameters()}


def buffer_names(model: nn.Module) -> dict[str, torch.Tensor]:
    """Buffers by name, also those that a state dict leaves out."""
    return {plain_name(name): buffer for name, buffer in model.named_buffers()}


def hold(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    *,
    average: Mapping[str, torch.Tensor],
    round: int,  # noqa: A002 - the glossary's word
    step: int,
    world_size: int,
    rank: int,
    extra: Mapping[str, Any],
) -> Holding:
    """The state of `model` and `optimizer` after `step`, as this rank holds it.

    `average` holds the local rows of averaged parameters, by parameter name.
    Raises InvalidJob for a tensor whose rows cannot be moved.
    """
    entries: dict[str, Entry] = {}
    tensors: dict[str, torch.Tensor] = {}

    def add(name: str, kind: Kind, shape: torch.Size, local: torch.Tensor) -> None:
        entries[name] = Entry(name=name, kind=kind, dtype=local.dtype, shape=tuple(shape))
        tensors[name] = local

    parameters = parameter_names(model)
    scalars: dict[str, dict[str, Any]] = {}
    for name, parameter in parameters.items():
        local = local_rows(name, parameter)
        add(f"model/{name}", Kind.SHARDED, parameter.shape, local)
        if name in average:
            add(f"average/{name}", Kind.SHARDED, parameter.shape, average[name])
        if optimizer is None or not optimizer.state.get(parameter):
            continue
        for key, value in optimizer.state[parameter].items():
            full = f"optimizer/{name}/{key}"
            if isinstance(value, DTensor):
                _check_layout(full, value, parameter)
                add(full, Kind.SHARDED, value.shape, value.to_local())
            elif isinstance(value, torch.Tensor) and value.ndim > 0:
                add(full, Kind.REPLICATED, value.shape, value.detach())
            else:
                scalars.setdefault(name, {})[key] = _scalar(full, value)
    for name, buffer in buffer_names(model).items():
        add(f"buffer/{name}", Kind.REPLICATED, buffer.shape, buffer.detach())
    if optimizer is not None:
        extra = {**extra, "optimizer": _options(optimizer, parameters, scalars)}
    return Holding(
        round=round,
        step=step,
        world_size=world_size,
        rank=rank,
        entries=entries,
        tensors=tensors,
        extra=extra,
    )


def local_rows(name: str, parameter: torch.Tensor) -> torch.Tensor:
    """The rows of `parameter` on this rank. Raises InvalidJob unless it is sharded by rows."""
    if isinstance(parameter, DTensor):
        if tuple(parameter.placements) != (Shard(0),):
            raise InvalidJob(
                f"parameter {name} has placements {parameter.placements}; live re-sharding moves"
                " rows of one FSDP dimension (Shard(0)), so HSDP, tensor and pipeline parallel"
                " meshes are refused"
            )
        return parameter.to_local().detach()
    raise InvalidJob(
        f"parameter {name} is not sharded: shard() must cover every parameter,"
        " for example by fully_shard on the root"
    )


def plain_name(name: str) -> str:
    """A tensor's name without what compiling and recomputation add."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _check_layout(name: str, value: DTensor, parameter: torch.Tensor) -> None:
    same_shape = value.shape == parameter.shape
    if same_shape and isinstance(parameter, DTensor) and value.placements == parameter.placements:
        return
    raise InvalidJob(
        f"optimizer state {name} has shape {tuple(value.shape)} and placements {value.placements},"
        " unlike its parameter; only state that is sharded like its parameter or equal on all"
        " ranks can move"
    )


def _scalar(name: str, value: object) -> Any:
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return {"tensor": value.item(), "dtype": dtype, "device": value.device.type}
    if value is None or isinstance(value, Number):
        return value
    raise InvalidJob(
        f"optimizer state {name} is a {type(value).__name__}; only tensors and numbers can move"
    )


def _options(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    scalars: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    names = {id(parameter): name for name, parameter in parameters.items()}
    groups = [
        {
            "parameters": [names[id(parameter)] for parameter in group["params"]],
            "options": dict(_group_options(group, number)),
        }
        for number, group in enumerate(optimizer.param_groups)
    ]
    return {"groups": groups, "scalars": scalars}


def _group_options(group: Mapping[str, Any], number: int) -> Iterator[tuple[str, Any]]:
    for key, value in group.items():
        if key == "params":
            continue
        if value is None or isinstance(value, (bool, int, float, str)):
            yield key, value
        elif isinstance(value, (tuple, list)) and all(isinstance(v, Number) for v in value):
            yield key, list(value)
        elif isinstance(value, torch.Tensor) and value.numel() == 1:
            yield key, _scalar(key, value)
        else:
            raise InvalidJob(
                f"optimizer option {key} of parameter group {number} is a"
                f" {type(value).__name__}; only numbers, text and tuples of numbers can move"
            )
