import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from concertina_api.errors import InvalidJob, MissingPackage
from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.loading import check_model, load_task
from concertina_trainer.task import build

transformers = pytest.importorskip("transformers")
from concertina_trainer.examples.llama import Llama  # noqa: E402 (needs the package)

MODEL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}
LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "train.bin"
    np.tile(np.arange(96, dtype="<u2"), 40).tofile(path)
    return str(path)


@pytest.fixture
def saved(tmp_path):
    """A folder that save_pretrained wrote."""
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**MODEL))
    model.save_pretrained(tmp_path / "saved")
    return str(tmp_path / "saved")


@pytest.mark.parametrize("tied", [True, False])
def test_it_learns_from_a_token_file(train, data, tied):
    task = Llama(data=data, context=32, model=MODEL | {"tie_word_embeddings": tied})
    windows = task.dataset()
    model, losses = train(
        task, steps=20, samples=lambda step: [windows[8 * step % 96 + i] for i in range(8)]
    )
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert losses[0] == pytest.approx(np.log(96), abs=0.2)
    assert losses[-1] < losses[0] - 0.5


def test_saved_weights_have_the_names_of_the_model_and_give_equal_logits(data, saved):
    task = Llama(data=data, context=16, pretrained=saved)
    weights = load_file(task.weights() / "model.safetensors")
    built = build(task)
    by_file = {built.weight_names[n]: p for n, p in built.model.named_parameters()}
    assert by_file.keys() == weights.keys()
    with torch.no_grad():
        for name, parameter in by_file.items():
            parameter.copy_(weights[name])
    tokens = torch.arange(12).unsqueeze(0)
    original = transformers.LlamaForCausalLM.from_pretrained(saved)
    assert torch.equal(built.model(tokens).logits, original(tokens).logits)


def test_only_the_adapters_train_on_a_frozen_base(train, data, saved):
    task = Llama(data=data, context=16, pretrained=saved, lora=LORA)
    windows = task.dataset()
    torch.manual_seed(0)
    before = {n: p.detach().clone() for n, p in build(task).model.named_parameters()}
    model, losses = train(
        task, steps=10, samples=lambda _: [windows[i] for i in range(8)], rate=1e-2
    )
    changed = {
        name
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter.full_tensor(), before[name])
    }
    assert changed
    assert changed == {name for name in before if "lora_" in name}
    assert losses[-1] < losses[0]


def test_the_frozen_base_keeps_the_names_of_the_file(data, saved):
    built = check_model(Llama(data=data, context=16, pretrained=saved, lora=LORA))
    weights = load_file(f"{saved}/model.safetensors")
    parameters = dict(built.model.named_parameters())
    assert {built.weight_names[n] for n in parameters if n in built.weight_names} == weights.keys()
    assert all("lora_" in name for name in parameters if name not in built.weight_names)


def test_it_can_be_built_without_values(data):
    model = check_model(Llama(data=data, context=16, model=MODEL)).model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def test_evaluation_reads_the_validation_file_if_there_is_one(data):
    assert Llama(data=data, context=16, model=MODEL).evaluation() == {}
    task = Llama(data=data, validation=data, context=16, model=MODEL, evaluation_windows=10)
    assert len(task.evaluation()["validation"]) == 10


@pytest.mark.parametrize(
    ("config", "want"),
    [
        pytest.param({}, "exactly one of model and pretrained", id="neither"),
        pytest.param({"model": MODEL, "pretrained": "x"}, "exactly one", id="both"),
        pytest.param({"pretrained": "no/such"}, "no/such holds no config.json", id="absent"),
        pytest.param(
            {"model": MODEL, "context": 64},
            "context 64 is above the model's max_position_embeddings 32",
            id="context",
        ),
    ],
)
def test_a_config_that_cannot_work_is_refused(config, want):
    with pytest.raises(InvalidJob, match=want):
        Llama(data="unused", **config)


@pytest.mark.parametrize("package", ["transformers", "peft"])
def test_a_missing_package_names_its_extra(monkeypatch, package):
    monkeypatch.delitem(sys.modules, "concertina_trainer.examples.llama")
    monkeypatch.setitem(sys.modules, package, None)
    spec = JobSpec.model_validate(
        {
            "model": "concertina_trainer.examples.llama:Llama",
            "samples": 1,
            "batch": {"microBatchSize": 1, "initial": 1, "max": 1},
        }
    )
    with pytest.raises(MissingPackage, match=r"concertina-training\[huggingface\]"):
        load_task(spec)
