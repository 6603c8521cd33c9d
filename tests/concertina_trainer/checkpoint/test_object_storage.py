"""Checkpoints in a bucket, against a real S3 server on this machine."""

import itertools
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from concertina_api.errors import CheckpointInvalid, InvalidJob
from concertina_trainer.checkpoint.claims import claim
from concertina_trainer.checkpoint.format import identity_of
from concertina_trainer.checkpoint.object_storage import open_url
from concertina_trainer.checkpoint.reader import find, load, open_checkpoint, verify
from concertina_trainer.checkpoint.retention import remove_obsolete
from concertina_trainer.checkpoint.storage import Storage, storage_at
from concertina_trainer.checkpoint.writer import Writer
from tests.cluster.api import wait_for
from tests.concertina_trainer.checkpoint.states import (
    JOB,
    always,
    checked,
    found_step,
    holding,
    large_entries,
    same_bits,
    save,
    world,
)
from tests.concertina_trainer.checkpoint.test_crash import Victim
from tests.s3 import BUCKET, S3Server, s3_server

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture
def prefix() -> str:
    return f"run-{next(NUMBERS)}"


@pytest.fixture(scope="module")
def bucket(server: S3Server) -> Storage:
    """One client for all: to make one costs more than most tests."""
    return storage_at(f"s3://{BUCKET}")


@pytest.fixture
def storage(bucket: Storage, prefix: str) -> Storage:
    return bucket.within(prefix)


@pytest.fixture
def impatient(storage: Storage) -> Storage:
    """The storage for which a second of silence is long."""
    return open_url(storage.location, answer_seconds=0.5)


def test_a_checkpoint_of_one_world_size_is_read_bitwise_by_another(storage: Storage) -> None:
    save(storage, 5, world_size=3)
    checkpoint = find(storage, job=JOB)
    assert checkpoint is not None
    for part in range(2):
        verify(checkpoint, part=part, parts=2)
        want = holding(5, world_size=2, rank=part)
        held = load(checkpoint, world_size=2, rank=part)
        assert held.extra == want.extra
        for name, tensor in want.tensors.items():
            assert same_bits(held.tensors[name], tensor), name


@pytest.mark.matrix
def test_a_state_of_several_uploads_and_ranges_is_read_back(storage: Storage) -> None:
    save(storage, 2, world_size=1, entries=large_entries(rows=12_000))
    assert found_step(storage) == 2


def test_the_last_ones_are_kept_and_other_objects_never_removed(
    server: S3Server, storage: Storage, prefix: str
) -> None:
    server.client().put_object(Bucket=BUCKET, Key=f"{prefix}/notes.txt", Body=b"mine")
    for step in (1, 2, 3):
        save(storage, step, world_size=2, keep=2)
    assert found_step(storage) == 3
    keys = server.keys(prefix)
    assert {key.split("-")[1] for key in keys if key.startswith("step")} == {
        "000000002",
        "000000003",
    }
    assert len(keys) == 2 * 5 + 2, "two checkpoints of two parts, `latest`, notes.txt"


def truncate(server: S3Server, key: str) -> None:
    client = server.client()
    content = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    client.put_object(Bucket=BUCKET, Key=key, Body=content[:-1])


def flip(server: S3Server, key: str) -> None:
    client = server.client()
    content = bytearray(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    content[-1] ^= 1
    client.put_object(Bucket=BUCKET, Key=key, Body=bytes(content))


def drop(server: S3Server, key: str) -> None:
    server.client().delete_object(Bucket=BUCKET, Key=key)


@pytest.mark.parametrize(
    ("harm", "name", "want"),
    [
        pytest.param(truncate, "rank-00001.safetensors", "bytes, saved were", id="truncated"),
        pytest.param(drop, "rank-00001.safetensors", "is missing", id="a part is missing"),
        pytest.param(flip, "manifest.json", "manifest is damaged", id="a bit of the manifest"),
        pytest.param(drop, "manifest.json", "manifest.json is missing", id="no manifest"),
    ],
)
def test_a_damaged_newest_one_is_skipped_with_a_warning(
    server: S3Server,
    storage: Storage,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
    harm,
    name,
    want,
) -> None:
    save(storage, 1, world_size=2)
    save(storage, 2, world_size=2)
    harm(server, f"{prefix}/step-000000002-r1-{world(1)}/{name}")
    with caplog.at_level(logging.WARNING):
        assert found_step(storage) == 1
    assert "skipping a checkpoint" in caplog.text
    assert want in caplog.text


def test_a_flipped_bit_in_the_data_shows_when_it_is_read(
    server: S3Server, storage: Storage, prefix: str
) -> None:
    save(storage, 1, world_size=2)
    flip(server, f"{prefix}/step-000000001-r1-{world(1)}/rank-00001.safetensors")
    checkpoint = find(storage, job=JOB)
    assert checkpoint is not None
    load(checkpoint, world_size=2, rank=0)
    with pytest.raises(CheckpointInvalid, match=r"rank-00001\.safetensors is damaged: checksum"):
        load(checkpoint, world_size=2, rank=1)
    with pytest.raises(CheckpointInvalid, match="is damaged"):
        verify(checkpoint, part=0, parts=1)


def test_a_bucket_that_is_not_there_is_not_an_empty_one(server: S3Server) -> None:
    with pytest.raises(OSError, match="there is no such bucket"):
        find("s3://absent/run", job=JOB)
    (writer,) = save("s3://absent/run", 1)
    assert "there is no such bucket" in writer.last_failure


def test_a_pointer_that_another_leader_has_moved_is_not_overwritten(storage: Storage) -> None:
    other = storage_at(storage.location)
    storage.swap("latest", b"one", seen=None, by="")
    other.swap("latest", b"two", seen=b"one", by="")
    for seen in (None, b"one"):
        with pytest.raises(FileExistsError):
            storage.swap("latest", b"three", seen=seen, by="")
    assert storage.read("latest") == b"two"


@pytest.mark.matrix
def test_of_several_that_claim_a_part_at_once_one_gets_it(storage: Storage) -> None:
    identity = identity_of(holding(4), job=JOB, origin=world(1))
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(claim, storage, identity=identity, rank=0) for _ in range(4)]
    assert sorted(each.result() for each in asked) == [False, False, False, True]


def test_of_two_leaders_at_once_each_checkpoint_is_whole(storage: Storage) -> None:
    """Both may publish: a leader that is cut off from the newest membership does not know it."""
    save(storage, 1)
    leaders = [Writer(storage, job=JOB, keep=3) for _ in range(2)]
    ready = threading.Barrier(2)

    def lead(number: int) -> None:
        ready.wait()
        for step in range(2, 6):
            held = holding(step, round_number=number + 1)
            leaders[number].save(held, origin=world(number), may_publish=always)
            assert leaders[number].wait(60)

    threads = [threading.Thread(target=lead, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for writer in leaders:
        writer.close()
    assert found_step(storage) == 5
    refused = [writer.last_failure for writer in leaders if writer.failures]
    assert all("SaveDropped" in failure for failure in refused), refused


def test_an_upload_that_is_given_up_leaves_nothing(
    server: S3Server, storage: Storage, prefix: str
) -> None:
    def chunks():
        yield bytes(40 * 2**20)
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        storage.write("x", chunks())
    assert server.keys(prefix) == []
    assert "Uploads" not in server.client().list_multipart_uploads(Bucket=BUCKET)


@pytest.mark.matrix
def test_a_kill_at_seeded_instants_loses_nothing_older(storage: Storage) -> None:
    victim = Victim()
    outcomes = []
    for instant in range(12):
        save(storage, 1, world_size=2, round_number=10 + instant, keep=1)
        outcomes.append(
            victim.save_step_2(storage.location, kill_after_seconds=0.7 + 0.15 * instant)
        )
        assert found_step(storage) in (1, 2)
        save(storage, 3, world_size=2, keep=1, round_number=100 + instant)
        assert found_step(storage) == 3
        assert len(storage.names()) == 2, "the newest checkpoint and `latest`"
    victim.close()
    assert "killed" in outcomes


def test_what_nobody_writes_any_more_is_removed_by_the_clock_of_the_storage(
    server: S3Server, storage: Storage, prefix: str
) -> None:
    save(storage, 1)
    key = f"{prefix}/step-000000002-r1-00000000/rank-00000.json"
    server.client().put_object(Bucket=BUCKET, Key=key, Body=b"{}")
    remove_obsolete(storage, job=JOB, keep=1, abandoned_seconds=600)
    assert len(storage.names()) == 3

    def is_gone() -> bool:
        remove_obsolete(storage, job=JOB, keep=1, abandoned_seconds=0)
        return len(storage.names()) == 2

    wait_for(is_gone, lambda: str(storage.names()))


def test_a_server_that_does_not_answer_costs_a_save_and_nobodys_time(
    server: S3Server, storage: Storage, impatient
) -> None:
    save(storage, 1)
    writer = Writer(impatient, job=JOB, keep=3)
    server.hang()
    try:
        writer.save(holding(2), origin=world(1), may_publish=always)
        wait_for(lambda: writer.failures == 1, lambda: "the save does not end")
    finally:
        server.answer()
    assert writer.trouble
    assert found_step(storage) == 1
    writer.save(holding(3), origin=world(1), may_publish=always)
    assert writer.wait(60)
    assert (writer.trouble, found_step(storage)) == ("", 3)
    writer.close()


def test_without_its_package_the_extra_is_named() -> None:
    script = """
import sys
sys.modules["s3fs"] = None
from concertina_api.errors import MissingPackage
from concertina_trainer.checkpoint.storage import storage_at
try:
    storage_at("s3://bucket/folder")
except MissingPackage as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    want = "checkpoint.path s3:// needs the package 's3fs'; install it with: pip install"
    assert done.stdout.startswith(f"{want} 'concertina-training[s3]'")


@pytest.mark.parametrize(
    ("location", "want"),
    [
        pytest.param("nothing://bucket/x", "fsspec knows no nothing://", id="unknown"),
        pytest.param("gs://bucket/x", "needs a package that is not installed", id="no package"),
        pytest.param("s3://user:word@bucket/x", "credentials", id="credentials"),
        pytest.param("memory://bucket/x", "of one machine alone", id="memory"),
    ],
)
def test_a_storage_that_nobody_can_open_is_refused_in_words(location: str, want: str) -> None:
    with pytest.raises(InvalidJob, match=want):
        storage_at(location)


def test_an_address_without_a_checkpoint_is_refused(storage: Storage) -> None:
    with pytest.raises(CheckpointInvalid, match=r"manifest\.json is missing"):
        open_checkpoint(f"{storage.location}/step-000000001-r1-00000000", job=JOB)
    assert find(storage, job=JOB) is None
    save(storage, 1)
    found = find(storage, job=None)
    assert found is not None
    assert checked(found) == 1
