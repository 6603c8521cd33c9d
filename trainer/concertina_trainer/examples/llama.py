"""A Hugging Face Llama on token files: from a configuration, from saved weights, or with LoRA.

The task for people who have a `transformers` model already; nothing in it is special to Llama
but two names. Both packages come with the extra `huggingface`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from concertina_api.errors import InvalidJob
from concertina_trainer.data.token_files import Windows, evenly_spaced, token_file
from concertina_trainer.task import Loss, Task


class Llama(Task):
    """Predict the next token; the loss is in nats per token."""

    def __init__(
        self,
        *,
        data: str,
        validation: str | None = None,
        context: int = 256,
        evaluation_windows: int = 64,
        model: Mapping[str, Any] | None = None,
        pretrained: str | None = None,
        lora: Mapping[str, Any] | None = None,
    ) -> None:
        """`data`, `validation`: token files in nanoGPT's `.bin` format.

        `model`: fields of a LlamaConfig, for a new model; or `pretrained`: a folder that
        `save_pretrained` wrote. `lora`: fields of a LoraConfig; only the adapters are trained.
        """
        self.pretrained = Path(pretrained) if pretrained else None
        self.config = _config(model, self.pretrained)
        # Keys and values are cached for generation only; in training they waste memory.
        self.config.use_cache = False
        if context > self.config.max_position_embeddings:
            raise InvalidJob(
                f"config.context {context} is above the model's max_position_embeddings"
                f" {self.config.max_position_embeddings}"
            )
        self.data = Path(data)
        self.validation = Path(validation) if validation else None
        self.context = context
        self.evaluation_windows = evaluation_windows
        self.lora = lora

    def build(self) -> nn.Module:
        """The model with fresh weights, or with shapes alone under the meta device."""
        return LlamaForCausalLM(self.config)

    def weights(self) -> Path | None:
        """The folder to start from, if one was given."""
        return self.pretrained

    def prepare(self, model: nn.Module) -> nn.Module:
        """With `lora`: add adapters and freeze everything else, in place."""
        if self.lora is None:
            return model
        return inject_adapter_in_model(LoraConfig(**self.lora), model)

    def dataset(self) -> Windows:
        """Windows of the training file, end to end."""
        vocabulary = self.config.vocab_size
        tokens = token_file(self.data, vocabulary=vocabulary)
        return Windows(tokens, context=self.context, vocabulary=vocabulary)

    def evaluation(self) -> Mapping[str, Windows]:
        """A fixed set of windows of the validation file, if there is one."""
        if self.validation is None:
            return {}
        vocabulary = self.config.vocab_size
        windows = evenly_spaced(
            token_file(self.validation, vocabulary=vocabulary),
            number=self.evaluation_windows,
            context=self.context,
            vocabulary=vocabulary,
        )
        return {"validation": windows}

    def tokens_per_sample(self) -> int:
        """The targets of a window."""
        return self.context

    def loss(self, model: nn.Module, batch: Tensor) -> Loss:
        """Cross entropy, summed over target tokens."""
        inputs, targets = batch[:, :-1], batch[:, 1:]
        logits = model(input_ids=inputs).logits.float()
        total = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return Loss(total, weight=targets.numel())


def _config(model: Mapping[str, Any] | None, pretrained: Path | None) -> LlamaConfig:
    if model is not None and pretrained is None:
        return LlamaConfig(**model)
    if pretrained is None or model is not None:
        raise InvalidJob("config: give exactly one of model and pretrained")
    if not (pretrained / "config.json").is_file():
        raise InvalidJob(f"config.pretrained: {pretrained} holds no config.json")
    return LlamaConfig.from_pretrained(pretrained)
