"""The models of the benches, in plain torch: what both sides of a comparison train.

Decoder-only transformers with a tied embedding, in the sizes of the measurements that the design
rests on. Imports nothing but torch, so that a rival's start-up is not charged for our packages.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Dimensions of a model."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    context: int


SIZES = {
    "tiny": Size(vocabulary=515, width=66, layers=3, heads=2, context=32),
    "25m": Size(vocabulary=12288, width=512, layers=6, heads=8, context=128),
    "125m": Size(vocabulary=32000, width=768, layers=14, heads=12, context=128),
}


class Block(nn.Module):
    """One layer: attention and a perceptron of four times the width."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        self.perceptron_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.project_in(self.attention_norm(x)).chunk(3, dim=-1)
        )
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project_out(mixed.transpose(1, 2).flatten(-2))
        return x + self.narrow(gelu(self.widen(self.perceptron_norm(x))))


class Transformer(nn.Module):
    """Token ids (batch, time) to logits (batch, time, vocabulary)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.vocabulary, size.width)
        self.position = nn.Embedding(size.context, size.width)
        self.blocks = nn.ModuleList(Block(size.width, heads=size.heads) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, size.vocabulary, bias=False)
        self.head.weight = self.embedding.weight
        for parameter in self.parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position.weight[: tokens.shape[-1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss_sum(model: nn.Module, tokens: Tensor) -> Tensor:
    """Cross entropy of each next token, summed; `tokens` is (batch, time + 1)."""
    logits = model(tokens[:, :-1])
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """The optimizer of both sides: no decay for biases and norms."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))


class RandomTokens:
    """Windows of a stream of random tokens: a map-style data set that costs nothing to load."""

    def __init__(self, *, vocabulary: int, context: int, windows: int = 4096) -> None:
        generator = torch.Generator().manual_seed(0)
        self._tokens = torch.randint(vocabulary, (windows, context + 1), generator=generator)

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> Tensor:
        return self._tokens[index]
