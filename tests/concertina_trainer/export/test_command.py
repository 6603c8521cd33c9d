import os
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from concertina_api.errors import CheckpointInvalid, ConcertinaError, InvalidJob
from concertina_trainer.export.command import export
from tests.concertina_trainer.export.runs import OPTIONS, save_model, write_job
from tests.models import TinyLM, seeded

TASK = "tests.concertina_trainer.export.runs:TinyTask"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(export, [str(argument) for argument in arguments])


@pytest.fixture
def model() -> TinyLM:
    return seeded(1, **OPTIONS)


@pytest.fixture
def run_dir(tmp_path: Path, model: TinyLM) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    write_job(path / "job.yaml", model=TASK, config={})
    save_model(path / "checkpoints", model, job="tiny", average=2)
    return path


def test_a_safetensors_file_is_the_state_dict_of_the_model(
    run_dir: Path, tmp_path: Path, model: TinyLM
) -> None:
    output = tmp_path / "model.safetensors"
    result = call(run_dir, "--format", "safetensors", "--output", output)
    assert result.exit_code == 0, result.output
    assert "last weights after step 3 (24 samples) of tiny" in result.output
    other = TinyLM(**OPTIONS)
    other.load_state_dict(load_file(output), strict=True)
    for name, want in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], want), name


def test_averaged_weights_replace_those_that_have_an_average(
    run_dir: Path, tmp_path: Path, model: TinyLM
) -> None:
    output = tmp_path / "model.safetensors"
    result = call(run_dir, "--format", "safetensors", "--output", output, "--average")
    assert result.exit_code == 0, result.output
    exported = load_file(output)
    assert torch.equal(exported["norm.weight"], 2 * model.norm.weight)
    assert torch.equal(exported["head.weight"], 2 * model.head.weight)
    assert torch.equal(exported["positions"], model.positions), "frozen: it has no average"


def test_a_distributed_checkpoint_is_loaded_by_torch(
    run_dir: Path, tmp_path: Path, model: TinyLM
) -> None:
    output = tmp_path / "distributed"
    result = call(run_dir, "--format", "dcp", "--output", output)
    assert result.exit_code == 0, result.output
    state = TinyLM(**OPTIONS).state_dict()
    with pytest.warns(UserWarning, match="in a single process"):
        dcp.load(state, checkpoint_id=output, no_dist=True)
    for name, want in model.state_dict().items():
        assert torch.equal(state[name], want), name
    assert {entry.name for entry in tmp_path.iterdir()} == {"run", "distributed"}


@pytest.mark.parametrize("source", ["run/checkpoints", "run/checkpoints/step-*"])
def test_a_folder_of_checkpoints_or_one_of_them_will_do(
    run_dir: Path, tmp_path: Path, source: str
) -> None:
    (found,) = tmp_path.glob(source)
    output = tmp_path / "model.safetensors"
    result = call(found, "--format", "safetensors", "--output", output)
    assert result.exit_code == 0, result.output
    assert "head.weight" in load_file(output), "the manifest of the run was found"


def test_without_a_manifest_every_tensor_leaves_once(tmp_path: Path, model: TinyLM) -> None:
    folder = save_model(tmp_path / "elsewhere", model, job="tiny")
    output = tmp_path / "model.safetensors"
    result = call(folder, "--format", "safetensors", "--output", output)
    assert result.exit_code == 0, result.output
    want = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    assert load_file(output).keys() == want


def test_names_of_a_manifest_given_by_hand_win(tmp_path: Path, model: TinyLM) -> None:
    folder = save_model(tmp_path / "elsewhere", model, job="tiny")
    write_job(tmp_path / "mine.yaml", model=TASK, config={})
    output = tmp_path / "model.safetensors"
    result = call(
        folder, "--format", "safetensors", "--output", output, "--job", tmp_path / "mine.yaml"
    )
    assert result.exit_code == 0, result.output
    assert load_file(output).keys() == model.state_dict().keys()


def error_of(result: Result) -> ConcertinaError:
    assert isinstance(result.exception, ConcertinaError), result.output
    return result.exception


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        pytest.param(["--format", "onnx"], "'onnx' is not one of", id="unknown format"),
        pytest.param(["--output", "run"], "exists already", id="output exists"),
        pytest.param([], "Missing option '--output'", id="no output"),
    ],
)
def test_wrong_arguments_are_refused_with_exit_code_2(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments, want: str
) -> None:
    monkeypatch.chdir(tmp_path)
    defaults = ["--format", "safetensors"] if "--format" not in arguments else ["--output", "new"]
    result = call(run_dir, *defaults, *arguments)
    assert result.exit_code == 2
    assert want in result.output


def test_a_folder_that_is_nothing_is_refused_with_exit_code_2(tmp_path: Path) -> None:
    result = call(tmp_path, "--format", "dcp", "--output", tmp_path / "new")
    assert result.exit_code == 2
    assert "is neither a checkpoint" in result.output


def test_a_run_that_has_saved_nothing_is_refused_with_exit_code_2(tmp_path: Path) -> None:
    write_job(tmp_path / "job.yaml", model=TASK, config={})
    result = call(tmp_path, "--format", "dcp", "--output", tmp_path / "new")
    assert result.exit_code == 2
    assert "nor the directory of a run that has saved one" in result.output


def test_a_hugging_face_folder_needs_the_manifest(tmp_path: Path, model: TinyLM) -> None:
    folder = save_model(tmp_path / "elsewhere", model, job="tiny")
    result = call(folder, "--format", "hf", "--output", tmp_path / "new")
    assert result.exit_code == 2
    assert "give it with --job" in result.output


def test_a_model_of_another_kind_cannot_leave_as_a_hugging_face_folder(
    run_dir: Path, tmp_path: Path
) -> None:
    error = error_of(call(run_dir, "--format", "hf", "--output", tmp_path / "new"))
    assert isinstance(error, InvalidJob)
    assert "TinyLM is no Hugging Face model" in str(error)
    assert not (tmp_path / "new").exists()


def test_an_average_that_there_is_not_is_refused(tmp_path: Path, model: TinyLM) -> None:
    folder = save_model(tmp_path / "elsewhere", model, job="tiny")
    error = error_of(
        call(folder, "--format", "safetensors", "--output", tmp_path / "new", "--average")
    )
    assert isinstance(error, InvalidJob)
    assert "the job has no training.averageDecay" in str(error)


def test_a_damaged_checkpoint_is_refused_before_anything_is_written(
    run_dir: Path, tmp_path: Path
) -> None:
    (file,) = run_dir.glob("checkpoints/step-*/rank-00001.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    error = error_of(call(run_dir, "--format", "safetensors", "--output", tmp_path / "new"))
    assert isinstance(error, CheckpointInvalid)
    assert "is damaged" in str(error)
    assert not (tmp_path / "new").exists()


def test_a_run_without_a_usable_checkpoint_is_refused(run_dir: Path, tmp_path: Path) -> None:
    (file,) = run_dir.glob("checkpoints/step-*/rank-00001.safetensors")
    os.truncate(file, 10)
    error = error_of(call(run_dir, "--format", "safetensors", "--output", tmp_path / "new"))
    assert "holds no usable checkpoint" in str(error)


def test_another_model_than_the_one_that_was_saved_is_refused(
    tmp_path: Path, model: TinyLM
) -> None:
    folder = save_model(tmp_path / "elsewhere", model.norm, job="tiny")
    write_job(tmp_path / "mine.yaml", model=TASK, config={})
    result = call(
        folder,
        "--format",
        "safetensors",
        "--output",
        tmp_path / "new",
        "--job",
        tmp_path / "mine.yaml",
    )
    assert "another model wrote it" in str(error_of(result))
