from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from concertina_api.errors import CheckpointInvalid
from concertina_trainer.checkpoint import tensor_file
from concertina_trainer.checkpoint.folder_storage import FolderStorage
from concertina_trainer.checkpoint.tensor_file import TensorFile, write_tensors
from concertina_trainer.checkpoint.tensor_layout import DTYPES, TensorSpec
from tests.concertina_trainer.checkpoint.states import same_bits, whole


def specs_of(tensors: dict[str, torch.Tensor]) -> list[TensorSpec]:
    return [
        TensorSpec(name=name, dtype=tensor.dtype, shape=tuple(tensor.shape))
        for name, tensor in tensors.items()
    ]


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    tensors = whole(1) | {
        f"dtype/{code}": torch.ones(3).to(dtype) for code, dtype in DTYPES.items()
    }
    path = tmp_path / "x.safetensors"
    written = write_tensors(
        FolderStorage(path.parent),
        path.name,
        specs=specs_of(tensors),
        tensor=tensors.__getitem__,
        metadata={"format": "pt"},
    )
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    for name, want in tensors.items():
        assert same_bits(loaded[name], want), name
    assert written.num_bytes == path.stat().st_size
    assert TensorFile(FolderStorage(path.parent), path.name).metadata == {"format": "pt"}


def test_checksums_are_those_of_the_data(tmp_path: Path) -> None:
    tensors = whole(1)
    path = tmp_path / "x.safetensors"
    written = write_tensors(
        FolderStorage(path.parent),
        path.name,
        specs=specs_of(tensors),
        tensor=tensors.__getitem__,
        metadata={},
    )
    opened = TensorFile(FolderStorage(path.parent), path.name)
    for name in tensors:
        assert opened.checksum(name) == written.checksums[name]


def test_tensors_are_asked_for_one_at_a_time_in_the_order_of_the_file(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(3, dtype=torch.bool), "b": torch.zeros(3), "c": torch.zeros(2)}
    asked: list[str] = []

    def tensor(name: str) -> torch.Tensor:
        asked.append(name)
        return tensors[name]

    write_tensors(FolderStorage(tmp_path), "x", specs=specs_of(tensors), tensor=tensor, metadata={})
    assert asked == ["b", "c", "a"], "wide elements first, so that all begin aligned"


def test_stopping_in_the_middle_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file, "CHUNK_BYTES", 64)
    path = tmp_path / "x"
    path.write_bytes(b"old")
    tensors = {"a": torch.zeros(100)}
    turns = [None, None]
    with pytest.raises(IndexError):
        write_tensors(
            FolderStorage(path.parent),
            path.name,
            specs=specs_of(tensors),
            tensor=tensors.__getitem__,
            metadata={},
            proceed=turns.pop,
        )
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_tensor_unlike_its_announcement_is_refused(tmp_path: Path) -> None:
    spec = TensorSpec(name="a", dtype=torch.float32, shape=(3,))
    with pytest.raises(ValueError, match=r"a: announced as torch.float32 \(3,\), got .* \(2,\)"):
        write_tensors(
            FolderStorage(tmp_path), "x", specs=[spec], tensor=lambda _: torch.zeros(2), metadata={}
        )


def test_a_dtype_that_the_format_lacks_is_refused(tmp_path: Path) -> None:
    spec = TensorSpec(name="a", dtype=torch.complex128, shape=(3,))
    with pytest.raises(ValueError, match=r"a: a safetensors file cannot hold torch\.complex128"):
        write_tensors(
            FolderStorage(tmp_path), "x", specs=[spec], tensor=lambda _: torch.zeros(2), metadata={}
        )


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"\xff" * 64, (2**40).to_bytes(8, "little")], ids=repr
)
def test_rubbish_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointInvalid, match=r"x\.safetensors is not a readable safetensors"):
        TensorFile(FolderStorage(path.parent), path.name)


def test_rows_are_converted_to_the_dtype_that_is_wanted(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(3, 2)}
    path = tmp_path / "x"
    write_tensors(
        FolderStorage(path.parent),
        path.name,
        specs=specs_of(tensors),
        tensor=tensors.__getitem__,
        metadata={},
    )
    rows = torch.empty(2, 2, dtype=torch.bfloat16)
    TensorFile(FolderStorage(path.parent), path.name).read_rows("a", start=1, into=rows)
    assert rows.tolist() == [[2, 3], [4, 5]]
