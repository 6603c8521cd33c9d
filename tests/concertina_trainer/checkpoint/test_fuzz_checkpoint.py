"""A checkpoint folder that somebody has spoilt: CheckpointInvalid, or the very state that was saved.

What is spoilt gets a right checksum, so that more than the checksum is tried.
"""

import json
import shutil
import zlib

import pytest
import torch
from hypothesis import strategies as st

from concertina_api.errors import CheckpointInvalid
from concertina_trainer.checkpoint import format as fmt
from concertina_trainer.checkpoint.folder_storage import FolderStorage
from concertina_trainer.checkpoint.publish import named, owner, read_latest
from concertina_trainer.checkpoint.reader import find, load, open_checkpoint, verify
from concertina_trainer.checkpoint.tensor_file import TensorFile
from concertina_trainer.sharding.header import decode_header, encode_header
from tests.concertina_trainer.checkpoint.states import JOB, holding, save
from tests.fuzzing import (
    DEEP,
    LENGTHS,
    STRANGE,
    anything,
    bounded,
    encoded,
    fuzz,
    json_bytes,
    refused,
    spoilt,
    spoilt_bytes,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The folder of a good checkpoint of two ranks."""
    path = tmp_path_factory.mktemp("good")
    save(path, 5, world_size=2)
    return path / named(read_latest(FolderStorage(path)))


@pytest.fixture
def folder(good, tmp_path):
    """A copy that may be spoilt."""
    return shutil.copytree(good, tmp_path / good.name)


def checked(text):
    """The same manifest with the checksum that it should have."""
    prefix, end = b'{"checksum":"', len(b'{"checksum":"') + 8
    body = prefix + b"0" * 8 + text[end:]
    return prefix + f"{zlib.crc32(body):08x}".encode() + text[end:]


def decoded(text):
    """The manifest, or None when it is refused."""
    return refused(lambda: fmt.decode(text), error=CheckpointInvalid)[0]


def manifests(good):
    document = json.loads((good / fmt.MANIFEST).read_text())
    compact = json.dumps(document, separators=(",", ":")).encode()
    spoilt_ones = spoilt([document]).map(
        lambda one: json.dumps(one, separators=(",", ":")).encode()
    )
    return st.one_of(
        spoilt_ones.map(checked), spoilt_bytes([compact]).map(checked), spoilt_bytes([compact])
    )


@LENGTHS
def test_a_manifest_is_understood_or_invalid(good, examples):
    def check(text):
        manifest = decoded(text)
        if manifest is not None:
            again = fmt.encode(manifest)
            assert fmt.encode(fmt.decode(again)) == again

    fuzz(check, manifests(good) | json_bytes([{}]), examples=examples)


@pytest.mark.parametrize("content", [*DEEP, *STRANGE], ids=lambda content: repr(content[:12]))
def test_a_manifest_of_something_else_is_invalid(content):
    for text in (content, checked(content), checked(b'{"checksum":"00000000","extra":' + content)):
        assert bounded(decoded, text) is None


@LENGTHS
def test_a_folder_with_a_spoilt_manifest_is_loaded_or_invalid(folder, good, examples):
    names = sorted(path.name for path in folder.iterdir())

    def check(text):
        (folder / fmt.MANIFEST).write_bytes(text)
        checkpoint, _ = refused(lambda: open_checkpoint(folder, job=JOB), error=CheckpointInvalid)
        if checkpoint is not None:
            refused(lambda: load(checkpoint, world_size=3, rank=1), error=CheckpointInvalid)
            refused(lambda: verify(checkpoint, part=0, parts=1), error=CheckpointInvalid)
        owner(FolderStorage(folder.parent))
        find(folder.parent, job=JOB)
        assert sorted(path.name for path in folder.iterdir()) == names

    fuzz(check, manifests(good), examples=examples)


@LENGTHS
def test_a_folder_with_a_spoilt_file_of_tensors_is_loaded_bitwise_or_invalid(
    folder, good, examples
):
    name = fmt.tensor_file_name(0)
    content = (good / name).read_bytes()
    want = load(open_checkpoint(good), world_size=1, rank=0)

    def check(spoilt_content):
        (folder / name).write_bytes(spoilt_content)

        def loaded():
            checkpoint = open_checkpoint(folder)
            verify(checkpoint, part=0, parts=1)
            return load(checkpoint, world_size=1, rank=0)

        held, _ = refused(loaded, error=CheckpointInvalid)
        if held is not None:
            for key, tensor in held.tensors.items():
                assert torch.equal(tensor, want.tensors[key]), key

    fuzz(check, spoilt_bytes([content]), examples=examples)


def headers(good):
    """Files of tensors whose header was changed; its length is right, and sometimes wrong."""
    content = (good / fmt.tensor_file_name(0)).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]

    def file(head):
        return len(head).to_bytes(8, "little") + head + data

    return st.one_of(
        spoilt([header]).map(encoded).map(file),
        json_bytes([header]).map(file),
        spoilt_bytes([content]),
        st.builds(lambda n: n.to_bytes(8, "little") + content[8:], st.integers(0, 2**64 - 1)),
        st.binary(max_size=64),
    )


@LENGTHS
def test_a_file_of_tensors_is_read_or_invalid(good, tmp_path, examples):
    file = tmp_path / "rank-00000.safetensors"

    def check(content):
        file.write_bytes(content)
        opened, _ = refused(
            lambda: TensorFile(FolderStorage(file.parent), file.name), error=CheckpointInvalid
        )
        for name in opened.names if opened else ():
            spec, _ = refused(lambda name=name: opened.spec(name), error=CheckpointInvalid)
            if spec is not None:
                assert spec.num_bytes <= len(content)
                opened.read_rows(name, start=0, into=torch.empty(spec.shape, dtype=spec.dtype))
                opened.checksum(name)

    fuzz(check, headers(good), examples=examples)


@LENGTHS
def test_latest_names_a_folder_or_nothing(tmp_path, examples):
    def check(content):
        (tmp_path / fmt.LATEST).write_bytes(content)
        name = named(read_latest(FolderStorage(tmp_path)))
        assert name is None or fmt.parse_folder_name(name)
        assert owner(FolderStorage(tmp_path)) is None
        assert find(tmp_path, job=None) is None

    good = [b"step-000000005-r1-1a2b3c4d\n"]
    fuzz(check, spoilt_bytes(good) | st.binary(max_size=300), examples=examples)


@LENGTHS
def test_a_report_of_a_rank_is_understood_or_passed_over(good, tmp_path, examples):
    from concertina_trainer.checkpoint.publish import _read_report

    document = json.loads((good / fmt.report_name(0)).read_text())
    file = tmp_path / "rank-00000.json"

    def check(content):
        file.write_bytes(content)
        report = _read_report(FolderStorage(tmp_path), file.name)
        assert report is None or report.rank >= 0

    fuzz(check, json_bytes([document]), examples=examples)


@LENGTHS
def test_the_description_of_a_state_is_understood_or_invalid(examples):
    header = json.loads(json.dumps(encode_header(holding(5, world_size=2))))

    def check(document):
        read, _ = refused(lambda: decode_header(document), error=CheckpointInvalid)
        if read is not None:
            entries, extra = read
            assert all(isinstance(entry.dtype, torch.dtype) for entry in entries.values())
            assert isinstance(extra, dict)

    fuzz(check, spoilt([header]) | anything, examples=examples)
