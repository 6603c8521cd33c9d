"""A small language model of bytes, trained on the Python standard library: the demo's task.

A decoder-only transformer as small models are built today: normalisation before each part
(RMSNorm; Zhang and Sennrich 2019), a squared-ReLU perceptron (So et al. 2021), no biases, and
the embedding shared with the output.
"""

from collections.abc import Mapping
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu, scaled_dot_product_attention

from concertina_api.errors import InvalidJob
from concertina_trainer.data.token_files import Windows, evenly_spaced
from concertina_trainer.examples.corpus import read_corpus
from concertina_trainer.task import Loss, Task

VOCABULARY = 256
"""Every byte is a token."""


class Attention(nn.Module):
    """Causal self-attention over (batch, time, width)."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(width, 3 * width, bias=False)
        self.project_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """What each place gathers from itself and the places before it."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.project_in(x).chunk(3, dim=-1)
        )
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        projected: Tensor = self.project_out(mixed.transpose(1, 2).flatten(-2))
        return projected


class Perceptron(nn.Module):
    """Four times the width, squared ReLU, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width, 4 * width, bias=False)
        self.narrow = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Each place for itself."""
        narrowed: Tensor = self.narrow(relu(self.widen(x)).square())
        return narrowed


class Block(nn.Module):
    """One layer; FSDP shards each as a group of its own."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width)
        self.attention = Attention(width, heads=heads)
        self.perceptron_norm = nn.RMSNorm(width)
        self.perceptron = Perceptron(width)

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream with what this layer adds."""
        attended: Tensor = x + self.attention(self.attention_norm(x))
        transformed: Tensor = attended + self.perceptron(self.perceptron_norm(attended))
        return transformed


class Transformer(nn.Module):
    """Token ids (batch, time) to logits (batch, time, vocabulary)."""

    def __init__(self, *, width: int, layers: int, heads: int, context: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads=heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self._initialise(layers)

    def _initialise(self, layers: int) -> None:
        """Normal, 0.02; what adds to the residual stream is smaller (GPT-2, section 2.3)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            adds = name.endswith(("project_out.weight", "narrow.weight"))
            nn.init.normal_(parameter, std=0.02 / sqrt(2 * layers) if adds else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at every place."""
        places = torch.arange(tokens.shape[-1], device=tokens.device)
        x = self.embedding(tokens) + self.position(places)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


class BytesLM(Task):
    """Predict the next byte of Python sources; the loss is in nats per byte."""

    def __init__(
        self,
        *,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        context: int = 64,
        evaluation_windows: int = 192,
        data: str | None = None,
    ) -> None:
        """`data`: a folder of `*.py` files; default: the standard library."""
        if width % heads:
            raise InvalidJob(f"width {width} is not a multiple of heads {heads}")
        self.width = width
        self.layers = layers
        self.heads = heads
        self.context = context
        self.evaluation_windows = evaluation_windows
        self.data = Path(data) if data else None

    def build(self) -> nn.Module:
        """The transformer."""
        return Transformer(
            width=self.width, layers=self.layers, heads=self.heads, context=self.context
        )

    def dataset(self) -> Windows:
        """Windows of the training files, end to end."""
        tokens = read_corpus(self.data).training
        return Windows(tokens, context=self.context, vocabulary=VOCABULARY)

    def evaluation(self) -> Mapping[str, Windows]:
        """A fixed set of windows of the held-out files."""
        return {
            "validation": evenly_spaced(
                read_corpus(self.data).validation,
                number=self.evaluation_windows,
                context=self.context,
                vocabulary=VOCABULARY,
            )
        }

    def tokens_per_sample(self) -> int:
        """The targets of a window."""
        return self.context

    def loss(self, model: nn.Module, batch: Tensor) -> Loss:
        """Cross entropy, summed over target bytes."""
        inputs, targets = batch[:, :-1], batch[:, 1:]
        logits = model(inputs).float()
        total = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return Loss(total, weight=targets.numel())
