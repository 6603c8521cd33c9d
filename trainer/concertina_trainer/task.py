"""What a user writes: the task that `spec.model` names.

Called by the training loop, the loader processes and the export, which get it by loading.py. A task
says what to train; batch, world size, precision and learning rate come from the manifest. Build,
shard and optimizer are called again after every resize, so a task must not keep a model.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.optim import Optimizer
from torch.utils.data import default_collate

from concertina_api.v1alpha1 import Precision


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

    def tokens_per_sample(self) -> int | None:
        """Tokens that the model learns from in one sample, for the metrics; None: not told."""
        return None

    def on_step(self, record: Mapping[str, Any]) -> StopTraining | None:
        """Called on the leader with every row of the record, as it is written to steps.jsonl."""
        del record
        return None


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
    original = {id(tensor): name for name, tensor in named_tensors(model)}
    prepared = task.prepare(model)
    return Built(
        model=prepared,
        weight_names={
            name: original[id(tensor)]
            for name, tensor in named_tensors(prepared)
            if id(tensor) in original
        },
    )


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, each once."""
    yield from model.named_parameters()
    yield from model.named_buffers()
