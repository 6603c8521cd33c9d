"""Small models that are awkward on purpose; tests of sharding, statistics and the loop share them.

TinyLM has four FSDP groups (three blocks and the root), tied embeddings of 515 uneven rows, a
parameter with fewer rows than ranks, a frozen parameter, a persistent and a non-persistent buffer.
Values depend on the seed alone, never on the world size.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn import functional

BFLOAT16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


class Block(nn.Module):
    """Causal attention and a feed-forward part, with one gain per head (two rows)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.norm_2 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.gain = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_1(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            query * self.gain, key, value, is_causal=True
        )
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.norm_2(x))))


class TinyLM(nn.Module):
    """Decoder-only language model; `repeats` runs the blocks several times in one forward."""

    logit_scale: Tensor
    rotation: Tensor

    def __init__(
        self,
        vocab: int = 515,
        width: int = 66,
        layers: int = 3,
        heads: int = 2,
        context: int = 33,
        repeats: int = 1,
    ) -> None:
        super().__init__()
        self.repeats = repeats
        self.embedding = nn.Embedding(vocab, width)
        self.positions = nn.Parameter(torch.empty(context, width), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("logit_scale", torch.full((), 0.5))
        self.register_buffer("rotation", torch.arange(float(context)), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        phase = torch.cos(self.rotation[:length]).to(self.positions.dtype)
        x = self.embedding(tokens) + self.positions[:length] * phase[:, None]
        for _ in range(self.repeats):
            for block in self.blocks:
                x = block(x)
        return self.head(self.norm(x)) * self.logit_scale


def seeded(seed: int = 0, **options: Any) -> TinyLM:
    """A TinyLM on CPU whose values are a function of the seed and the names."""
    model = TinyLM(**options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.05, generator=generator)
            if parameter.ndim != 2 and not name.endswith("bias"):
                parameter.add_(1.0)  # gains of heads and norms
    return model


def shard(
    model: TinyLM,
    mesh: DeviceMesh,
    *,
    reshard_after_forward: bool | int = True,
    precision: MixedPrecisionPolicy | None = None,
) -> TinyLM:
    """Applies FSDP2 to each block and to the root, in place; a 2-D mesh gives HSDP."""
    for module in (*model.blocks, model):
        fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=reshard_after_forward,
            mp_policy=precision or MixedPrecisionPolicy(),
        )
    return model


def checkpoint_activations(model: TinyLM) -> TinyLM:
    """Recomputes each block in backward, in place."""
    return _replace_blocks(model, checkpoint_wrapper)


def compile_blocks(model: TinyLM, *, backend: str = "inductor") -> TinyLM:
    """Compiles each block on its own, in place; `aot_eager` is quick and makes the same graphs."""
    for block in model.blocks:
        block.compile(backend=backend)
    return model


def tokens(first_sample: int, size: int, *, length: int = 12, vocab: int = 515) -> Tensor:
    """Token ids [size, length + 1] of samples first_sample, first_sample + 1, ..."""

    def rows() -> Iterator[Tensor]:
        for sample in range(first_sample, first_sample + size):
            generator = torch.Generator().manual_seed(sample)
            yield torch.randint(vocab, (length + 1,), generator=generator)

    return torch.stack(list(rows()))


def loss_sum(model: nn.Module, batch: Tensor) -> Tensor:
    """Sum over samples of the mean cross entropy of a sample, in nats."""
    logits = model(batch[:, :-1]).float()
    losses = functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none")
    return losses.mean(dim=1).sum()


def _replace_blocks(model: TinyLM, wrap: Callable[[nn.Module], nn.Module]) -> TinyLM:
    model.blocks = nn.ModuleList(wrap(block) for block in model.blocks)
    return model
