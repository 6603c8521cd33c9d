"""The shipped examples through a resize, and what is exported from them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.records import samples_in_order
from tests.e2e.runs import LocalRun, environment, started
from tests.tasks import job_document

pytestmark = pytest.mark.matrix
BATCH = {
    "microBatchSize": 4,
    "initial": 8,
    "max": 16,
    "maxAccumulation": 2,
    "rule": {"name": "Ramp", "stages": [{"samples": 16, "batch": 16}]},
}
MODEL = {
    "vocab_size": 96,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}


def document(**changes: Any) -> dict[str, Any]:
    growing = {
        "samples": 10**6,
        "batch": BATCH,
        "pods": {"min": 1, "max": 2},
        "scaling": {"scaleUpCooldownSeconds": 0},
        "training": {"gradientClip": 1.0, "averageDecay": 0.9, "evaluateEverySamples": 1024},
    }
    return job_document(**(growing | changes))


def test_batch_norm_on_digits_through_a_resize(tmp_path: Path) -> None:
    with started(tmp_path / "run", document(model="tests.e2e.examples:ResizedDigits")) as run:
        assert run.end() == 0, run.account()
    _check_resized(run)


def test_a_llama_is_resized_exported_read_by_transformers_and_adapted(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    data = tmp_path / "tokens.bin"
    (np.arange(4000, dtype="<u2") % 89).tofile(data)
    config = {"data": str(data), "validation": str(data), "context": 16, "model": MODEL}
    with started(
        tmp_path / "run", document(model="tests.e2e.examples:ResizedLlama", config=config)
    ) as run:
        assert run.end() == 0, run.account()
    _check_resized(run)

    _export(run.folder, "safetensors", tmp_path / "weights.safetensors")
    _export(run.folder, "hf", tmp_path / "hub")
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hub").eval()
    want = transformers.LlamaForCausalLM(transformers.LlamaConfig(**MODEL)).eval()
    want.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=False)
    tokens = torch.arange(12).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(read(input_ids=tokens).logits, want(input_ids=tokens).logits)

    adapted = {
        "data": str(data),
        "context": 16,
        "pretrained": str(tmp_path / "hub"),
        "lora": {"r": 2, "target_modules": ["q_proj"]},
    }
    lora = job_document(model="concertina_trainer.examples.llama:Llama", config=adapted, samples=64)
    with started(tmp_path / "lora", lora) as run:
        assert run.end() == 0, run.account()
    assert f"starting from the weights in {tmp_path / 'hub'}" in run.log("tiny-0")
    assert samples_in_order(run.steps())


def _check_resized(run: LocalRun) -> None:
    steps = run.steps()
    assert samples_in_order(steps)
    assert run.discarded() == []
    assert {row["world_size"] for row in steps} == {1, 2}
    assert steps[-1]["loss"] < steps[0]["loss"]


def _export(run_dir: Path, form: str, output: Path) -> None:
    command = [sys.executable, "-m", "concertina_operator.cli", "export", str(run_dir)]
    subprocess.run(
        [*command, "--format", form, "--output", str(output)], check=True, env=environment()
    )
