import json
import logging
import os
import shutil
import zlib
from pathlib import Path

import pytest
import torch

from concertina_api.errors import CheckpointInvalid
from concertina_trainer.checkpoint import format as fmt
from concertina_trainer.checkpoint.reader import find, load, open_checkpoint, read_rows, verify
from tests.concertina_trainer.checkpoint.states import (
    ENTRIES,
    JOB,
    checked,
    found_step,
    holding,
    same_bits,
    save,
    whole,
    world,
)


@pytest.mark.parametrize("saved", [1, 2, 3, 4])
def test_a_checkpoint_of_any_world_size_is_read_bitwise_by_any_other(
    tmp_path: Path, saved: int
) -> None:
    save(tmp_path, 5, world_size=saved)
    checkpoint = find(tmp_path, job=JOB)
    assert checkpoint is not None
    for world_size in (1, 2, 3, 4):
        for rank in range(world_size):
            want = holding(5, world_size=world_size, rank=rank)
            held = load(checkpoint, world_size=world_size, rank=rank)
            assert (held.round, held.step, held.rank, held.world_size) == (1, 5, rank, world_size)
            assert list(held.entries.items()) == list(want.entries.items())
            assert held.extra == want.extra
            for name, tensor in want.tensors.items():
                assert same_bits(held.tensors[name], tensor), (world_size, rank, name)


def test_any_rows_are_read_from_the_files_that_hold_them(tmp_path: Path) -> None:
    save(tmp_path, 5, world_size=3)
    checkpoint = find(tmp_path, job=JOB)
    assert checkpoint is not None
    entry = ENTRIES["model/embed"]
    for start in range(8):
        for stop in range(start, 8):
            want = whole(5)[entry.name][start:stop]
            assert same_bits(read_rows(checkpoint, entry, start, stop), want)


def test_replicated_tensors_are_stored_once(tmp_path: Path) -> None:
    save(tmp_path, 5, world_size=3)
    checkpoint = find(tmp_path, job=JOB)
    assert checkpoint is not None
    stored = [set(file.checksums) for file in checkpoint.manifest.files]
    assert "optimizer/matrix" in stored[0]
    assert stored[1] == {"model/embed", "model/few", "model/bias", "optimizer/embed/exp_avg"}
    assert stored[2] == {"model/embed", "model/bias", "optimizer/embed/exp_avg"}


def test_what_was_read_outlives_the_files(tmp_path: Path) -> None:
    save(tmp_path, 5, world_size=2)
    checkpoint = find(tmp_path, job=JOB)
    assert checkpoint is not None
    held = load(checkpoint, world_size=1, rank=0)
    for file in Path(checkpoint.location).glob("*.safetensors"):
        os.truncate(file, 0)
    assert same_bits(held.tensors["model/embed"], whole(5)["model/embed"])


def test_finds_nothing_where_nothing_was_saved(tmp_path: Path) -> None:
    assert find(tmp_path / "absent", job=JOB) is None
    assert find(tmp_path, job=JOB) is None


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 0x10
    file.write_bytes(content)


def edit_manifest(folder: Path, **changes: object) -> None:
    """A manifest with other content and a correct checksum, as another program would write it."""
    document = json.loads((folder / "manifest.json").read_bytes()) | changes
    document["checksum"] = "0" * 8
    text = json.dumps(document, separators=(",", ":")).encode()
    checksum = f"{zlib.crc32(text):08x}".encode()
    (folder / "manifest.json").write_bytes(text.replace(b"0" * 8, checksum, 1))


def mix(folder: Path) -> None:
    older = next(folder.parent.glob("step-000000001-*"))
    shutil.copy(older / "rank-00001.safetensors", folder)


def rename_job(folder: Path) -> None:
    document = json.loads((folder / "manifest.json").read_bytes())
    edit_manifest(folder, identity=document["identity"] | {"job": "other"})


@pytest.mark.parametrize(
    ("harm", "want_reason"),
    [
        pytest.param(
            lambda folder: os.truncate(folder / "rank-00001.safetensors", 300),
            r"rank-00001.safetensors has 300 bytes, saved were \d+",
            id="truncated",
        ),
        pytest.param(
            lambda folder: (folder / "rank-00000.safetensors").unlink(),
            "rank-00000.safetensors is missing",
            id="a file is missing",
        ),
        pytest.param(mix, "rank-00001.safetensors belongs to another checkpoint", id="mixed"),
        pytest.param(
            lambda folder: flip(folder / "rank-00001.safetensors", 200),
            "rank-00001.safetensors",
            id="a bit of a header",
        ),
        pytest.param(
            lambda folder: flip(folder / "manifest.json", 400),
            "its manifest is damaged: the checksum does not match",
            id="a bit of the manifest",
        ),
        pytest.param(
            lambda folder: os.truncate(folder / "manifest.json", 100),
            "its manifest is damaged",
            id="half a manifest",
        ),
        pytest.param(
            lambda folder: (folder / "manifest.json").write_bytes(b""),
            "its manifest is damaged",
            id="an empty manifest",
        ),
        pytest.param(
            lambda folder: (folder / "manifest.json").unlink(),
            "manifest.json is missing",
            id="no manifest",
        ),
        pytest.param(rename_job, "it belongs to job 'other', not 'tiny-lm'", id="another job"),
        pytest.param(
            lambda folder: edit_manifest(folder, version=2),
            "its manifest is not one of version 1: version: .*, got 2",
            id="another version",
        ),
        pytest.param(
            lambda folder: edit_manifest(folder, files=[]),
            "0 files for 2 ranks",
            id="a manifest that contradicts itself",
        ),
        pytest.param(shutil.rmtree, "is missing", id="gone"),
    ],
)
def test_an_unusable_checkpoint_is_skipped_with_the_reason_and_refused_when_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm, want_reason: str
) -> None:
    save(tmp_path, 1, world_size=2)
    save(tmp_path, 2, world_size=2)
    newest = next(tmp_path.glob("step-000000002-*"))
    harm(newest)
    with caplog.at_level(logging.WARNING):
        assert found_step(tmp_path) == 1
    assert caplog.text.count("skipping a checkpoint") == 1
    with pytest.raises(CheckpointInvalid, match=want_reason) as raised:
        open_checkpoint(newest, job=JOB)
    assert str(newest) in str(raised.value)
    assert str(raised.value) in caplog.text


def test_a_flipped_bit_in_the_data_is_found_by_exactly_one_share(tmp_path: Path) -> None:
    save(tmp_path, 1, world_size=2)
    checkpoint = find(tmp_path, job=JOB)
    assert checkpoint is not None
    file = Path(checkpoint.location) / "rank-00001.safetensors"
    flip(file, file.stat().st_size - 1)
    damaged = open_checkpoint(checkpoint.location)
    complaints = []
    for part in range(3):
        try:
            verify(damaged, part=part, parts=3)
        except CheckpointInvalid as error:
            complaints.append(str(error))
    assert len(complaints) == 1
    assert "model/few in rank-00001.safetensors is damaged" in complaints[0]


def test_a_checkpoint_that_failed_verification_can_be_excluded(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    newest = find(tmp_path, job=JOB)
    assert newest is not None
    older = find(tmp_path, job=JOB, exclude={newest.name})
    assert older is not None
    assert checked(older) == 1


@pytest.mark.parametrize(
    "content", [b"", b"../../etc", b"\xff\xfe", b"step-000000009-r1-00000000\n"]
)
def test_a_pointer_to_nothing_falls_back_to_the_newest(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, 7, round_number=1)
    save(tmp_path, 3, round_number=2)
    (tmp_path / "latest").write_bytes(content)
    assert found_step(tmp_path) == 3, "the last one written, not the one with the highest step"


def test_a_damaged_one_among_the_older_is_told_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    for step in (1, 3):
        (manifest,) = tmp_path.glob(f"step-00000000{step}-*/manifest.json")
        manifest.write_text("{")
    with caplog.at_level(logging.WARNING):
        assert found_step(tmp_path) == 2
        assert find(tmp_path, job="other") is None
    assert "step-000000003" in caplog.text
    assert "step-000000001" in caplog.text


def test_a_folder_that_only_looks_like_a_checkpoint_is_not_one(tmp_path: Path) -> None:
    name = fmt.FolderName(1, 1, world(1))
    (tmp_path / str(name)).mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert find(tmp_path, job=JOB) is None


def test_dtypes_without_a_name_in_the_format_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown dtype 'complex128'"):
        fmt.StoredEntry(name="x", kind="replicated", dtype="complex128", shape=())
    assert (
        fmt.StoredEntry(name="x", kind="replicated", dtype="bfloat16", shape=()).torch_dtype
        is torch.bfloat16
    )
