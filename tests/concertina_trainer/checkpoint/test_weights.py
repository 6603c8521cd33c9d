import json
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn

from concertina_api.errors import InvalidJob
from concertina_trainer.checkpoint.weights import conversion, load_weights
from concertina_trainer.sharding.layout import row_range
from concertina_trainer.task import Built, build
from tests.concertina_trainer.export.runs import OPTIONS, TinyTask, save_model
from tests.models import TinyLM, seeded


@pytest.fixture
def model() -> TinyLM:
    return seeded(1, **OPTIONS)


@pytest.fixture
def built() -> Built:
    with torch.device("meta"):
        return build(TinyTask())


def own_copies(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_rank_gets_its_rows(
    tmp_path: Path, model: TinyLM, built: Built, world_size: int
) -> None:
    save_file(own_copies(model.state_dict()), tmp_path / "w.safetensors")
    for rank in range(world_size):
        loaded = load_weights(tmp_path / "w.safetensors", built, world_size=world_size, rank=rank)
        for name, want in model.named_parameters():
            start, stop = row_range(len(want), world_size=world_size, rank=rank)
            assert torch.equal(loaded.pop(f"model/{name}"), want[start:stop]), name
        assert torch.equal(loaded.pop("buffer/logit_scale"), model.logit_scale)
        assert not loaded, "a buffer that is not persistent comes from the constructor"


@pytest.mark.parametrize("absent", ["embedding.weight", "head.weight"])
def test_a_tied_tensor_may_go_by_either_name(
    tmp_path: Path, model: TinyLM, built: Built, absent: str
) -> None:
    state = own_copies(model.state_dict())
    del state[absent]
    save_file(state, tmp_path / "w.safetensors")
    loaded = load_weights(tmp_path / "w.safetensors", built, world_size=1, rank=0)
    assert torch.equal(loaded["model/embedding.weight"], model.embedding.weight)


def test_values_are_converted_to_the_dtype_of_the_model(
    tmp_path: Path, model: TinyLM, built: Built
) -> None:
    state = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    save_file(own_copies(state), tmp_path / "w.safetensors")
    loaded = load_weights(tmp_path / "w.safetensors", built, world_size=1, rank=0)
    assert torch.equal(loaded["model/norm.weight"], model.norm.weight.bfloat16().float())


def test_a_checkpoint_of_another_job_will_do(tmp_path: Path, model: TinyLM, built: Built) -> None:
    folder = save_model(tmp_path, model, job="other")
    loaded = load_weights(folder, built, world_size=2, rank=1)
    assert torch.equal(loaded["model/embedding.weight"], model.embedding.weight[6:])
    assert torch.equal(loaded["buffer/rotation"], model.rotation)


def test_all_names_and_shapes_that_do_not_fit_are_listed(
    tmp_path: Path, model: TinyLM, built: Built
) -> None:
    state = own_copies(model.state_dict())
    state["norm.gain"] = state.pop("norm.weight")
    state["positions"] = state["positions"][:4].clone()
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InvalidJob) as raised:
        load_weights(tmp_path / "w.safetensors", built, world_size=1, rank=0)
    assert str(raised.value).splitlines()[1:] == [
        "  missing: norm.weight",
        "  unexpected: norm.gain",
        "  of another shape: positions (4, 6) for (5, 6)",
    ]


def test_a_long_list_is_cut_and_counted(tmp_path: Path, built: Built) -> None:
    save_file({f"x{n:02d}": torch.zeros(1) for n in range(20)}, tmp_path / "w.safetensors")
    with pytest.raises(InvalidJob, match=r"unexpected: x00, .*, x07 and 12 more"):
        load_weights(tmp_path / "w.safetensors", built, world_size=1, rank=0)


def put_index(folder: Path, content: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("make", "want"),
    [
        pytest.param(Path.exists, "no weights at", id="an empty folder"),
        pytest.param(lambda folder: folder.rmdir(), "no weights at", id="nothing"),
        pytest.param(
            lambda folder: (folder / "pytorch_model.bin").touch(),
            "pytorch_model.bin is a pickle, which can run any code",
            id="a pickle",
        ),
        pytest.param(
            lambda folder: (folder / ".metadata").touch(),
            "is a torch distributed checkpoint, whose metadata is a pickle",
            id="a distributed checkpoint",
        ),
        pytest.param(
            lambda folder: (folder / "model.safetensors").write_text("junk"),
            "is not a readable safetensors file",
            id="junk",
        ),
        pytest.param(lambda folder: put_index(folder, []), "is no index", id="an index of nothing"),
        pytest.param(
            lambda folder: put_index(folder, {"weight_map": {"a": "../x.safetensors"}}),
            r"names '\.\./x\.safetensors', which is not beside it",
            id="an index that points elsewhere",
        ),
        pytest.param(
            lambda folder: put_index(folder, {"weight_map": {"a": "b.safetensors"}}),
            r"No such file or directory: .*b\.safetensors",
            id="an index of a missing file",
        ),
        pytest.param(
            lambda folder: (folder / "manifest.json").write_text("{}"),
            "cannot be used: its manifest is damaged",
            id="a damaged checkpoint",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, built: Built, make, want: str) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    make(folder)
    with pytest.raises(InvalidJob, match=want):
        load_weights(folder, built, world_size=1, rank=0)


def run_in_shell(command: str, cwd: Path) -> None:
    python = f"{shlex.quote(sys.executable)} -W ignore"
    subprocess.run(command.replace("python", python), shell=True, cwd=cwd, check=True)


def test_the_command_for_a_pickle_converts_it(tmp_path: Path, model: TinyLM, built: Built) -> None:
    torch.save({"model": model.state_dict()}, tmp_path / "w.pt")
    run_in_shell(conversion(tmp_path / "w.pt"), tmp_path)
    loaded = load_weights(tmp_path / "weights.safetensors", built, world_size=1, rank=0)
    assert torch.equal(loaded["model/norm.weight"], model.norm.weight)


@pytest.mark.matrix
def test_the_command_for_a_distributed_checkpoint_converts_it(
    tmp_path: Path, model: TinyLM, built: Built
) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.save(model.state_dict(), checkpoint_id=tmp_path / "foreign", no_dist=True)
    with pytest.raises(InvalidJob) as raised:
        load_weights(tmp_path / "foreign", built, world_size=1, rank=0)
    run_in_shell(str(raised.value).splitlines()[1].strip(), tmp_path)
    loaded = load_weights(tmp_path / "weights.safetensors", built, world_size=1, rank=0)
    assert torch.equal(loaded["model/norm.weight"], model.norm.weight)


def test_a_layer_that_prepare_added_needs_no_values(tmp_path: Path) -> None:
    class WithHead(TinyTask):
        def prepare(self, model: nn.Module) -> nn.Module:
            model.extra = nn.Linear(2, 2)
            return model

    save_file(own_copies(seeded(1, **OPTIONS).state_dict()), tmp_path / "w.safetensors")
    with torch.device("meta"):
        built = build(WithHead())
    loaded = load_weights(tmp_path / "w.safetensors", built, world_size=1, rank=0)
    assert "model/norm.weight" in loaded
    assert "model/extra.weight" not in loaded
