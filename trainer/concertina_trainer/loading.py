"""Finds the task that a manifest names, and checks that training can use it.

Called by workers, loader processes, the export and `concertina validate`. Whatever is wrong is
found before anything is trained, and said in the user's words.
"""

import importlib
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import IterableDataset

from concertina_api.errors import ConcertinaError, InvalidJob, MissingPackage
from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.task import (
    AnyDataset,
    AugmentedDataset,
    Built,
    Loss,
    Task,
    TrainingTask,
    build,
    named_tensors,
)

log = logging.getLogger(__name__)

EXTRAS = {
    "matplotlib": "local",
    "peft": "huggingface",
    "rich": "local",
    "tensorboard": "tensorboard",
    "transformers": "huggingface",
    "wandb": "wandb",
}
"""Optional packages and the extra that brings each."""


def load_task(spec: JobSpec) -> Task:
    """The task that `spec.model` names, made with `spec.config`.

    `module:object` is a class or a function that is called with the config as keywords, or a
    ready instance. Raises InvalidJob when it cannot be found or made, MissingPackage when it
    needs an optional package that is not installed.
    """
    module_name, _, attribute = spec.model.partition(":")
    found: Any = _module(module_name)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise InvalidJob(f"model {spec.model}: {module_name} has no {attribute!r}")
        found = getattr(found, name)
    if isinstance(found, type) or not isinstance(found, TrainingTask):
        return as_task(_called(found, spec), name=spec.model)
    if spec.config:
        raise InvalidJob(f"model {spec.model} is a ready instance and takes no config")
    return as_task(found, name=spec.model)


def as_task(candidate: object, *, name: str) -> Task:
    """`candidate` as a Task; raises InvalidJob naming the methods it lacks."""
    if isinstance(candidate, Task):
        return candidate
    if isinstance(candidate, TrainingTask):
        return _Adapter(candidate)
    missing = [m for m in ("build", "dataset", "loss") if not hasattr(candidate, m)]
    raise InvalidJob(f"model {name}: {type(candidate).__name__} has no {', '.join(missing)}")


class _Adapter(Task):
    """A task of three methods (and any others of `Task` it happens to have)."""

    def __init__(self, task: TrainingTask) -> None:
        self._task = task
        for name in vars(Task):
            if not name.startswith("_") and hasattr(task, name):
                setattr(self, name, getattr(task, name))

    def build(self) -> nn.Module:
        return self._task.build()

    def dataset(self) -> AnyDataset:
        return self._task.dataset()

    def loss(self, model: nn.Module, batch: Any) -> Loss:
        return self._task.loss(model, batch)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise InvalidJob(f"model: no module {missing!r} on Python's path") from error
        package = missing.partition(".")[0]
        if package in EXTRAS:
            raise MissingPackage(package, extra=EXTRAS[package], purpose=name) from error
        raise InvalidJob(f"model: {name} needs {missing!r}, which is not installed") from error
    except ConcertinaError:
        raise
    except Exception as error:
        raise InvalidJob(
            f"model: importing {name} failed: {type(error).__name__}: {error}"
        ) from error


def _called(factory: Any, spec: JobSpec) -> object:
    if not callable(factory):
        raise InvalidJob(f"model {spec.model} is a {type(factory).__name__}, not a task")
    missing = sorted(getattr(factory, "__abstractmethods__", ()))
    if missing:
        raise InvalidJob(f"model {spec.model} has no {', '.join(missing)}")
    _check_config(factory, spec)
    try:
        return factory(**spec.config)
    except ConcertinaError:
        raise
    except Exception as error:
        raise InvalidJob(f"model {spec.model}: {type(error).__name__}: {error}") from error


def _check_config(factory: Callable[..., object], spec: JobSpec) -> None:
    """Raise InvalidJob for config keywords that are unknown or that are missing."""
    parameters = inspect.signature(factory).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for name in spec.config:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known) or 'none'}"
            raise InvalidJob(f"config.{name}: model {spec.model} does not take it ({hint})")
    for parameter in parameters:
        needed = parameter.default is parameter.empty and parameter.name in known
        if needed and parameter.name not in spec.config:
            raise InvalidJob(f"config.{parameter.name}: model {spec.model} needs it")


def check_dataset(task: Task, spec: JobSpec) -> AnyDataset:
    """The task's training data; raises InvalidJob when the loop cannot take it.

    Rules: map-style (the loop chooses the order), and at least one initial batch of samples.
    """
    dataset = task.dataset()
    kind = type(dataset).__name__
    if isinstance(dataset, IterableDataset):
        raise InvalidJob(
            f"dataset {kind} is an IterableDataset; a map-style one is needed (len and index),"
            " because samples are chosen by number"
        )
    if not hasattr(dataset, "__len__"):
        raise InvalidJob(f"dataset {kind} has no __len__; a map-style dataset is needed")
    if not (hasattr(dataset, "__getitem__") or isinstance(dataset, AugmentedDataset)):
        raise InvalidJob(f"dataset {kind} has neither __getitem__ nor item(index, generator)")
    samples, batch = len(dataset), spec.batch
    if samples < batch.initial:
        raise InvalidJob(
            f"dataset {kind} has {samples} samples, fewer than one step: initial {batch.initial}"
        )
    if samples < batch.max:
        log.warning("a step of %d samples spans epochs of %d samples", batch.max, samples)
    return dataset


def check_model(task: Task) -> Built:
    """The model as built under the meta device; raises InvalidJob when training cannot use it."""
    try:
        with torch.device("meta"):
            built = build(task)
    except ConcertinaError:
        raise
    except Exception as error:
        raise InvalidJob(
            "the model cannot be built on the meta device, where tensors have shapes and no"
            f" values: {type(error).__name__}: {error}"
        ) from error
    for mistake in _mistakes(task, built.model):
        raise InvalidJob(mistake)
    return built


def _mistakes(task: Task, model: nn.Module) -> Iterator[str]:
    for name, tensor in named_tensors(model):
        if isinstance(tensor, DTensor):
            yield f"{name} is already sharded; tensor, pipeline and context parallel are refused"
        if not tensor.is_meta:
            yield (
                f"{name} is on {tensor.device} though built under the meta device;"
                " build() must create its tensors on the default device"
            )
    for name, parameter in model.named_parameters():
        if parameter.dtype is torch.float16:
            yield f"{name} is float16, which needs a GradScaler; use precision BFloat16"
    if not any(parameter.requires_grad for parameter in model.parameters()):
        yield "the model has no parameter that requires a gradient"
    for name, value in _attributes(task):
        if isinstance(value, torch.amp.GradScaler):
            yield f"{name} is a GradScaler; use precision BFloat16, which needs none"
        if isinstance(value, torch.optim.lr_scheduler.LRScheduler):
            yield f"{name} is a learning-rate scheduler, which keeps state; override learning_rate"


def _attributes(task: Task) -> Sequence[tuple[str, object]]:
    return [*vars(type(task)).items(), *vars(task).items()]
