"""What a user writes: the task that `spec.model` names, and how it is found and checked.

Called by the training loop, the loader processes, the export and `concertina validate`. A task
says what to train; batch, world size, precision and learning rate come from the manifest. Build,
shard and optimizer are called again after every resize, so a task must not keep a model.
"""

import importlib
import inspect
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils.data import IterableDataset, default_collate

from concertina_api.errors import ConcertinaError, InvalidJob, MissingPackage
from concertina_api.v1alpha1 import JobSpec, Precision

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


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of one micro-batch as a sum with its weight, so that uneven ones add up exactly."""

    total: Tensor
    """Sum over what counts (samples, or target tokens); a scalar with a gradient."""
    weight: float | Tensor
    """How much counted: the step's gradient is the sum of totals over the sum of weights."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """More sums over the same weight, recorded as means (say, the number of right answers)."""


@dataclass(frozen=True, slots=True)
class StopTraining:
    """Returned by `on_step`: end the run after the present step, as if it were complete."""

    reason: str


class MapDataset(Protocol):
    """Samples by index; the loop chooses the order. Every torch map-style dataset is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class AugmentedDataset(Protocol):
    """A dataset whose samples are drawn at random."""

    def __len__(self) -> int: ...

    def item(self, index: int, generator: torch.Generator) -> Any:
        """Sample `index`, with every random draw taken from `generator` and from nothing else.

        The generator is seeded from (seed, sample number), so a sample is the same one at every
        world size and in every epoch of its own a new one.
        """


AnyDataset = MapDataset | AugmentedDataset


@runtime_checkable
class TrainingTask(Protocol):
    """The three methods that no default can replace."""

    def build(self) -> nn.Module:
        """A plain module; called under the meta device (each round) and on CPU (first start)."""

    def dataset(self) -> AnyDataset:
        """The training data."""

    def loss(self, model: nn.Module, batch: Any) -> Loss:
        """One forward pass over a collated micro-batch."""


class Task(ABC):
    """Base class of tasks: three methods to write, the others to override where they differ."""

    @abstractmethod
    def build(self) -> nn.Module:
        """A plain module; called under the meta device (each round) and on CPU (first start)."""

    @abstractmethod
    def dataset(self) -> AnyDataset:
        """The training data."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Loss:
        """One forward pass over a collated micro-batch."""

    def collate(self, samples: list[Any]) -> Any:
        """A micro-batch from its samples."""
        return default_collate(samples)

    def weights(self) -> Path | None:
        """A safetensors file or Hugging Face folder to start from, named as in `build()`.

        None: the seeded initialisation of `build()`.
        """
        return None

    def prepare(self, model: nn.Module) -> nn.Module:
        """Freeze, add adapters, checkpoint activations, compile: whatever comes before sharding."""
        return model

    def shard(self, model: nn.Module, mesh: DeviceMesh, *, precision: Precision) -> None:
        """Apply `fully_shard` to each repeated block (see `repeated_blocks`), then to the root."""
        policy = mixed_precision(precision)
        for block in repeated_blocks(model):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)

    def optimizer(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
        """The optimizer over the trainable parameters; the loop sets the rate before each step.

        A parameter group may hold `lr_scale`, a factor of its own on that rate. Default: AdamW,
        betas (0.9, 0.95), weight decay 0.1 on matrices only.
        """
        parameters = [parameter for _, parameter in named_parameters]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.95))

    def learning_rate(self, samples: int, batch: int) -> float | None:
        """Rate of the step that starts at `samples` with this global batch; None: the manifest's.

        Pure: it is called on every worker and again after a restart.
        """
        del samples, batch
        return None

    def evaluation(self) -> Mapping[str, MapDataset]:
        """Held-out data by name; each is evaluated with `loss` in eval mode."""
        return {}

    def on_step(self, record: Mapping[str, Any]) -> StopTraining | None:
        """Called on the leader with every row of the record, as it is written to steps.jsonl."""
        del record
        return None


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


def repeated_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks that become FSDP groups of their own, in the order of the model.

    Rule: the elements of every outermost `nn.ModuleList` whose class occurs in that list more
    than once. Lists inside a block (experts, heads) stay in the block's group, because a group
    whose forward some worker skips would leave the others waiting in a collective.
    """
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            classes = Counter(type(block) for block in child)
            yield from (block for block in child if classes[type(block)] > 1)
        else:
            yield from repeated_blocks(child)


def mixed_precision(precision: Precision) -> MixedPrecisionPolicy:
    """FSDP's policy for a manifest's precision: gradients are always reduced in float32."""
    match precision:
        case Precision.FLOAT32:
            return MixedPrecisionPolicy()
        case Precision.BFLOAT16:
            return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A prepared model, and what its tensors are called outside of training."""

    model: nn.Module
    weight_names: Mapping[str, str]
    """Name in the prepared model -> name in `build()`, for parameters and buffers that have one.

    Adapters and wrappers rename what they wrap; files of weights know only the first name.
    """


def build(task: Task) -> Built:
    """Build and prepare the model on torch's default device, following its tensors by identity."""
    model = task.build()
    original = {id(tensor): name for name, tensor in _named_tensors(model)}
    prepared = task.prepare(model)
    return Built(
        model=prepared,
        weight_names={
            name: original[id(tensor)]
            for name, tensor in _named_tensors(prepared)
            if id(tensor) in original
        },
    )


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


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
    for name, tensor in _named_tensors(model):
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
