"""Folders that `from_pretrained` reads; the models are those of the Llama example."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from concertina_trainer.checkpoint.weights import load_weights
from concertina_trainer.export.command import export
from concertina_trainer.loading import check_model
from concertina_trainer.task import build
from tests.concertina_trainer.export.runs import save_model, write_job

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
from concertina_trainer.examples.llama import Llama  # noqa: E402 (needs both packages)

MODEL = {
    "vocab_size": 96,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}
LORA = {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}
TOKENS = torch.arange(12).unsqueeze(0)


def trained(path: Path, **config: object) -> torch.nn.Module:
    """A model with values that no initialisation gives, saved as the checkpoint of a run."""
    np.arange(200, dtype="<u2").tofile(path / "data.bin")
    config |= {"data": str(path / "data.bin"), "context": 16}
    write_job(path / "job.yaml", model="concertina_trainer.examples.llama:Llama", config=config)
    model = build(Llama(**config)).model
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    save_model(path / "checkpoints", model, job="tiny")
    return model.eval()


def exported(path: Path) -> torch.nn.Module:
    """The run at `path`, exported and read by transformers."""
    output = path / "hub"
    arguments = [str(path), "--format", "hf", "--output", str(output)]
    result = CliRunner().invoke(export, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return transformers.AutoModelForCausalLM.from_pretrained(output).eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=TOKENS).logits


@pytest.mark.parametrize("tied", [True, False])
def test_from_pretrained_gives_equal_logits(tmp_path: Path, tied: bool) -> None:
    model = trained(tmp_path, model=MODEL | {"tie_word_embeddings": tied})
    read = exported(tmp_path)
    assert type(read).__name__ == "LlamaForCausalLM"
    assert torch.equal(logits(read), logits(model))
    names = load_file(tmp_path / "hub" / "model.safetensors").keys()
    assert ("lm_head.weight" in names) != tied


def test_adapters_are_merged_into_the_weights(tmp_path: Path) -> None:
    model = trained(tmp_path, model=MODEL, lora=LORA)
    read = exported(tmp_path)
    assert not [name for name, _ in read.named_parameters() if "lora" in name]
    assert read.config.architectures == ["LlamaForCausalLM"]
    torch.testing.assert_close(logits(read), logits(model))
    before = dict(model.named_parameters())["model.layers.0.self_attn.q_proj.base_layer.weight"]
    assert not torch.equal(read.model.layers[0].self_attn.q_proj.weight, before)


def test_the_folder_can_be_trained_on(tmp_path: Path) -> None:
    model = trained(tmp_path, model=MODEL)
    exported(tmp_path)
    task = Llama(data=str(tmp_path / "data.bin"), context=16, pretrained=str(tmp_path / "hub"))
    loaded = load_weights(task.weights(), check_model(task), world_size=1, rank=0)
    for name, want in model.named_parameters():
        assert torch.equal(loaded[f"model/{name}"], want), name


def test_a_base_gets_its_weights_and_adapters_are_left_to_the_seed(tmp_path: Path) -> None:
    model = trained(tmp_path, model=MODEL)
    exported(tmp_path)
    data = str(tmp_path / "data.bin")
    task = Llama(data=data, context=16, pretrained=str(tmp_path / "hub"), lora=LORA)
    loaded = load_weights(task.weights(), check_model(task), world_size=1, rank=0)
    assert not [name for name in loaded if "lora" in name]
    assert torch.equal(
        loaded["model/model.layers.0.self_attn.q_proj.base_layer.weight"],
        model.model.layers[0].self_attn.q_proj.weight,
    )


def test_a_folder_of_several_files_is_read_by_its_index(tmp_path: Path) -> None:
    model = trained(tmp_path, model=MODEL)
    model.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    task = Llama(data=str(tmp_path / "data.bin"), context=16, pretrained=str(tmp_path / "shards"))
    loaded = load_weights(task.weights(), check_model(task), world_size=2, rank=1)
    want = model.model.embed_tokens.weight[48:]
    assert torch.equal(loaded["model/model.embed_tokens.weight"], want)
