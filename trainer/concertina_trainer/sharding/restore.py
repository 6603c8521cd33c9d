"""Builds live objects from a training state: the counterpart of collect.py.

A resize builds new module, parameter and optimizer objects: FSDP cannot change its mesh. The
model is built on the meta device, so nothing is initialised twice and memory holds only rows.
"""

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import Precision
from concertina_trainer.sharding.collect import buffer_names, local_rows, parameter_names
from concertina_trainer.sharding.state import Entry, Holding, Kind
from concertina_trainer.task import Task, build


def build_sharded(
    task: Task, mesh: DeviceMesh, *, precision: Precision, device: torch.device
) -> nn.Module:
    """The task's model, sharded over `mesh`, with uninitialised rows on `device`."""
    with torch.device("meta"):
        model = build(task).model
    task.shard(model, mesh, precision=precision)
    model.to_empty(device=device)
    for name, parameter in parameter_names(model).items():
        local_rows(name, parameter)
    return model.train()


def settle(model: nn.Module) -> None:
    """Put the model between two steps: parameters as rows, nothing accumulated or in flight.

    After a forward pass without backward, or a pass that was broken off, FSDP leaves parameters
    gathered and its order of calls half done.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Before the first forward pass there is no order of calls, nor anything to reset.
            if module is model and module._get_fsdp_state()._is_root:
                module.reset_iter_state()
            module.reshard()


def build_whole(task: Task, *, seed: int) -> Holding:
    """The initial state, built whole on the CPU of one worker: a world of size one.

    Random initialisation of sharded tensors would depend on the world size, so the first leader
    builds everything under the seed and the rows are scattered like in any other resize.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        model = build(task).model
    return whole({name: value.detach() for name, value in state_tensors(model).items()})


def whole(tensors: Mapping[str, torch.Tensor]) -> Holding:
    """Full tensors as a state held by a world of one worker, before the first step."""
    return first_part(tensors, shapes=tensors, world_size=1, rank=0)


def first_part(
    rows: Mapping[str, torch.Tensor],
    *,
    shapes: Mapping[str, torch.Tensor],
    world_size: int,
    rank: int,
) -> Holding:
    """What `rank` holds before the first step; `shapes` are the full tensors, perhaps on meta."""
    entries = {
        name: Entry(
            name=name,
            kind=Kind.REPLICATED if name.startswith("buffer/") else Kind.SHARDED,
            dtype=rows[name].dtype,
            shape=tuple(tensor.shape),
        )
        for name, tensor in shapes.items()
    }
    return Holding(
        round=0,
        step=0,
        world_size=world_size,
        rank=rank,
        entries=entries,
        tensors={name: rows[name] for name in entries},
        extra={},
    )


def state_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by the names of their entries."""
    parameters = {f"model/{name}": value for name, value in parameter_names(model).items()}
    return parameters | {f"buffer/{name}": value for name, value in buffer_names(model).items()}


def fill_model(model: nn.Module, tensors: MutableMapping[str, torch.Tensor]) -> None:
    """Copy rows into the model's parameters and buffers, freeing each source as it goes.

    Raises InvalidJob when the state lacks a tensor of the model or has one more.
    """
    targets = {
        f"model/{name}": local_rows(name, parameter)
        for name, parameter in parameter_names(model).items()
    }
    targets |= {f"buffer/{name}": buffer for name, buffer in buffer_names(model).items()}
    given = {name for name in tensors if name.startswith(("model/", "buffer/"))}
    if given != set(targets):
        missing, unexpected = sorted(set(targets) - given), sorted(given - set(targets))
        raise InvalidJob(
            "the state does not fit the model:"
            f" missing {missing[:5]}, unexpected {unexpected[:5]}"
            f" ({len(missing)} and {len(unexpected)} in all)"
        )
    for name, target in targets.items():
        source = tensors.pop(name)
        if source.shape != target.shape:
            raise InvalidJob(
                f"the state does not fit the model: {name} has local rows"
                f" {tuple(source.shape)}, the model wants {tuple(target.shape)}"
            )
        target.copy_(source)


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    *,
    entries: Mapping[str, Entry],
    tensors: MutableMapping[str, torch.Tensor],
    saved: Mapping[str, Any],
) -> None:
    """Put rows, scalars and options into a fresh optimizer, by parameter name.

    State tensors are adopted, not copied. Raises InvalidJob when the groups differ.
    """
    parameters = parameter_names(model)
    names = {id(parameter): name for name, parameter in parameters.items()}
    groups = saved.get("groups", [])
    present = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    if [group["parameters"] for group in groups] != present:
        raise InvalidJob(
            "the optimizer's parameter groups differ from those of the saved state:"
            f" {[len(group) for group in present]} parameters now,"
            f" {[len(group['parameters']) for group in groups]} then"
        )
    for group, old in zip(optimizer.param_groups, groups, strict=True):
        group.update({key: _option(value, group.get(key)) for key, value in old["options"].items()})
    for name, parameter in parameters.items():
        for key, value in saved.get("scalars", {}).get(name, {}).items():
            optimizer.state[parameter][key] = _revived(value, parameter.device)
        prefix = f"optimizer/{name}/"
        for full in [full for full in tensors if full.startswith(prefix)]:
            local = tensors.pop(full)
            sharded = entries[full].kind is Kind.SHARDED
            optimizer.state[parameter][full.removeprefix(prefix)] = (
                _like(parameter, local) if sharded else local
            )


def _like(parameter: nn.Parameter, local: torch.Tensor) -> DTensor:
    assert isinstance(parameter, DTensor)
    return DTensor.from_local(
        local,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def _option(value: Any, present: Any) -> Any:
    if isinstance(value, list):
        return tuple(value) if isinstance(present, tuple) else value
    return _revived(value, torch.device("cpu"))


def _revived(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        where = device if value["device"] == device.type else torch.device("cpu")
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]), device=where)
    return value
