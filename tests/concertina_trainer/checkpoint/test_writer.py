import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from concertina_api.errors import CheckpointInvalid, InvalidJob
from concertina_trainer.checkpoint.folder_storage import FolderStorage
from concertina_trainer.checkpoint.reader import find, verify
from concertina_trainer.checkpoint.retention import remove_obsolete
from concertina_trainer.checkpoint.writer import Writer
from tests.cluster.api import wait_for
from tests.concertina_trainer.checkpoint.states import (
    JOB,
    always,
    checked,
    folder_names,
    found_step,
    holding,
    large_entries,
    save,
    world,
    writer_threads,
)


def leader(path: Path, **options: float) -> Writer:
    return Writer(path, job=JOB, keep=3, **options)


def test_a_save_names_itself_when_it_is_complete(tmp_path: Path) -> None:
    (writer,) = save(tmp_path, 4)
    assert writer.last_saved is not None
    assert (writer.last_saved.step, writer.last_saved.samples) == (4, 32)
    assert Path(writer.last_saved.path).name == (tmp_path / "latest").read_text().strip()
    assert (writer.failures, writer.pending) == (0, False)


def test_only_the_leader_says_that_a_checkpoint_is_saved(tmp_path: Path) -> None:
    first, second = save(tmp_path, 4, world_size=2)
    assert first.last_saved is not None
    assert second.last_saved is None


def test_the_last_ones_are_kept_and_others_removed(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step, keep=2)
    steps = {name.split("-")[1] for name in folder_names(tmp_path) if name.startswith("step")}
    assert steps == {"000000004", "000000005"}
    assert found_step(tmp_path) == 5


def test_other_peoples_folders_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for step in (2, 3):
        save(tmp_path, step, keep=1)
    assert "notes" in folder_names(tmp_path)
    assert len(folder_names(tmp_path)) == 3


def test_idleness_is_measured_by_the_clock_of_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    being_written = tmp_path / "step-000000002-r1-00000000"
    being_written.mkdir()
    monkeypatch.setattr("time.time", lambda: being_written.stat().st_mtime + 10_000)
    remove_obsolete(FolderStorage(tmp_path), job=JOB, keep=1, abandoned_seconds=600)
    assert being_written.exists()
    os.utime(being_written, (0, 0))
    remove_obsolete(FolderStorage(tmp_path), job=JOB, keep=1, abandoned_seconds=600)
    assert not being_written.exists()


def test_the_folder_of_another_job_is_refused_and_left_alone(tmp_path: Path) -> None:
    save(tmp_path, 5, job="other")
    being_written = tmp_path / "step-000000004-r1-00000000"
    being_written.mkdir()
    with pytest.raises(InvalidJob, match="holds checkpoints of the job other"):
        leader(tmp_path)
    remove_obsolete(FolderStorage(tmp_path), job=JOB, keep=1, abandoned_seconds=0)
    assert being_written.exists()
    assert len(folder_names(tmp_path)) == 3


def test_the_state_that_is_saved_is_the_one_of_the_call(tmp_path: Path) -> None:
    held = holding(1)
    writer = leader(tmp_path)
    writer.save(held, origin=world(1), may_publish=always)
    for tensor in held.tensors.values():
        tensor.zero_()
    assert writer.wait(60)
    writer.close()
    assert found_step(tmp_path) == 1


def test_the_leader_waits_for_every_part(tmp_path: Path) -> None:
    writer = leader(tmp_path)
    writer.save(holding(1, world_size=2, rank=0), origin=world(1), may_publish=always)
    assert not writer.wait(0.1)
    assert writer.pending
    assert find(tmp_path, job=JOB) is None
    other = leader(tmp_path)
    other.save(holding(1, world_size=2, rank=1), origin=world(1), may_publish=always)
    assert writer.wait(60)
    writer.close()
    other.close()
    assert found_step(tmp_path) == 1


def test_a_set_that_lacks_a_part_is_dropped_at_the_deadline(tmp_path: Path) -> None:
    save(tmp_path, 1)
    writer = leader(tmp_path, deadline_seconds=0.05)
    writer.save(holding(2, world_size=2, rank=0), origin=world(1), may_publish=always)
    assert writer.wait(60)
    writer.close()
    assert writer.failures == 1
    assert "no part of the ranks [1] within 0.05 s" in writer.last_failure
    assert found_step(tmp_path) == 1
    assert len(folder_names(tmp_path)) == 2


def test_abandoning_drops_a_set_at_once_and_the_next_save_works(tmp_path: Path) -> None:
    writer = leader(tmp_path)
    writer.save(holding(1, world_size=2, rank=0), origin=world(1), may_publish=always)
    writer.abandon()
    assert writer.wait(60)
    writer.save(holding(2), origin=world(1), may_publish=always)
    assert writer.wait(60)
    writer.close()
    assert (writer.failures, found_step(tmp_path)) == (1, 2)


def test_a_pending_save_does_not_hinder_those_of_the_next_world(tmp_path: Path) -> None:
    old, new = leader(tmp_path), leader(tmp_path)
    old.save(holding(1, world_size=2, rank=0), origin=world(1), may_publish=always)
    new.save(holding(2, round_number=2), origin=world(2), may_publish=always)
    assert new.wait(60)
    last = leader(tmp_path)
    last.save(holding(1, world_size=2, rank=1), origin=world(1), may_publish=always)
    assert old.wait(60)
    for writer in (old, new, last):
        writer.close()
    assert found_step(tmp_path) == 2, "`latest` does not go back to the save that began earlier"


def test_who_was_excluded_and_cannot_know_does_not_move_latest_though_it_went_further(
    tmp_path: Path,
) -> None:
    excluded = leader(tmp_path)
    save(tmp_path, 95, round_number=4)
    excluded.save(holding(100, round_number=3), origin=world(3), may_publish=always)
    assert excluded.wait(60)
    excluded.close()
    assert "is newer" in excluded.last_failure
    assert found_step(tmp_path) == 95


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_worker_that_is_not_in_the_newest_round_never_moves_latest(
    tmp_path: Path, allowed: int
) -> None:
    """`allowed`: how often it is asked before it leaves: before the manifest, before `latest`."""
    save(tmp_path, 1)
    answers = iter([True] * allowed + [False])
    (writer,) = save(tmp_path, 2, may_publish=lambda: next(answers))
    assert "not a member of the newest round" in writer.last_failure
    assert found_step(tmp_path) == 1
    assert len(folder_names(tmp_path)) == 2


def test_a_restart_from_an_older_checkpoint_goes_on_from_there(tmp_path: Path) -> None:
    save(tmp_path, 900, round_number=7)
    save(tmp_path, 500, round_number=1)
    save(tmp_path, 510, round_number=1, keep=2)
    assert found_step(tmp_path) == 510
    assert not [name for name in folder_names(tmp_path) if "900" in name]


def test_the_same_state_is_saved_once(tmp_path: Path) -> None:
    writer = leader(tmp_path)
    for _ in range(2):
        writer.save(holding(1), origin=world(1), may_publish=always)
        assert writer.wait(60)
    writer.close()
    checkpoint = find(tmp_path, job=JOB)
    assert checkpoint is not None
    assert checkpoint.manifest.sequence == 1
    assert writer.failures == 0


def test_a_failing_save_is_logged_and_counted_and_the_next_one_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoints"
    writer = leader(path)
    path.write_text("in the way")
    with caplog.at_level(logging.WARNING):
        writer.save(holding(1), origin=world(1), may_publish=always)
        assert writer.wait(60)
    assert "checkpoint of step 1 is not saved, older ones are untouched" in caplog.text
    assert writer.failures == 1
    path.unlink()
    writer.save(holding(2), origin=world(1), may_publish=always)
    assert writer.wait(60)
    writer.close()
    assert found_step(path) == 2


def test_a_rank_that_cannot_save_tells_the_leader(tmp_path: Path) -> None:
    first, second = leader(tmp_path), leader(tmp_path)
    folder = tmp_path / f"step-000000001-r1-{world(1)}"
    (folder / "rank-00001.safetensors").mkdir(parents=True)
    second.save(holding(1, world_size=2, rank=1), origin=world(1), may_publish=always)
    first.save(holding(1, world_size=2, rank=0), origin=world(1), may_publish=always)
    assert first.wait(60)
    first.close()
    second.close()
    assert "rank 1 could not save: IsADirectoryError" in first.last_failure
    assert not folder.exists()


def test_what_a_failed_save_left_is_gone_after_the_next(tmp_path: Path) -> None:
    writer, late = leader(tmp_path, deadline_seconds=0.05), leader(tmp_path)
    writer.save(holding(2, world_size=2, rank=0), origin=world(1), may_publish=always)
    assert writer.wait(60)
    late.save(holding(2, world_size=2, rank=1), origin=world(1), may_publish=always)
    assert late.wait(60)
    late.close()
    assert len(folder_names(tmp_path)) == 1, "the part that came too late"
    writer.save(holding(1), origin=world(1), may_publish=always)
    assert writer.wait(60)
    writer.close()
    assert len(folder_names(tmp_path)) == 2
    assert found_step(tmp_path) == 1


def test_with_both_copies_in_use_a_save_is_dropped_and_never_waits(tmp_path: Path) -> None:
    """A pipe in the place of the first file holds the writer until somebody reads from it."""
    folder = tmp_path / f"step-000000001-r1-{world(1)}"
    folder.mkdir()
    pipe = folder / ".rank-00000.safetensors"
    os.mkfifo(pipe)
    writer = leader(tmp_path)
    for step in (1, 2, 3):
        writer.save(holding(step), origin=world(1), may_publish=always)
    with pipe.open("rb") as opened:
        opened.read()
    assert writer.wait(60)
    writer.close()
    assert "the storage is slower than the interval" in writer.last_failure
    assert writer.failures == 2, "the pipe is no file either"
    assert found_step(tmp_path) == 2


def test_a_storage_that_does_not_answer_is_left_alone_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concertina_trainer.checkpoint.writer.CLOSE_SECONDS", 0.1)
    folder = tmp_path / f"step-000000001-r1-{world(1)}"
    folder.mkdir()
    pipe = folder / ".rank-00000.safetensors"
    os.mkfifo(pipe)
    writer = leader(tmp_path, deadline_seconds=0.05)
    writer.save(holding(1), origin=world(1), may_publish=always)
    wait_for(lambda: writer.trouble, lambda: "no trouble is told")
    assert "the storage does not answer" in writer.trouble
    (thread,) = writer_threads()
    writer.close()
    assert thread.is_alive()
    assert f"{tmp_path} does not answer: leaving it" in caplog.text
    with pipe.open("rb") as opened:
        opened.read()
    thread.join(60)
    assert not thread.is_alive()


def test_reading_while_saving_sees_whole_checkpoints_only(tmp_path: Path) -> None:
    save(tmp_path, 1, keep=2)
    done = threading.Event()

    def save_many() -> None:
        try:
            writer = Writer(tmp_path, job=JOB, keep=2)
            for step in range(2, 25):
                writer.save(holding(step), origin=world(1), may_publish=always)
                assert writer.wait(60)
            writer.close()
        finally:
            done.set()

    saving = threading.Thread(target=save_many)
    saving.start()
    steps, complaints = [], []
    while not done.is_set():
        checkpoint = find(tmp_path, job=JOB)
        assert checkpoint is not None
        try:
            verify(checkpoint, part=0, parts=1)
            steps.append(checked(checkpoint))
        except CheckpointInvalid as error:
            complaints.append(str(error))
    saving.join()
    assert all(
        "is missing" in complaint or "was removed" in complaint for complaint in complaints
    ), "removed meanwhile"
    assert steps == sorted(steps)
    assert found_step(tmp_path) == 24


def test_memory_can_be_reserved_before_the_first_save(tmp_path: Path) -> None:
    writer = leader(tmp_path)
    writer.reserve(holding(1))
    writer.save(holding(1), origin=world(1), may_publish=always)
    assert writer.wait(60)
    writer.close()
    assert found_step(tmp_path) == 1
    assert not writer_threads()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 12 MB, of which a checkpoint of large_entries takes 4 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small tmpfs needs root: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_disk_that_is_only_read_for_a_while_loses_nothing(small_disk: Path) -> None:
    save(small_disk, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    (writer,) = save(small_disk, 2)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert "Read-only file system" in writer.trouble
    assert found_step(small_disk) == 1
    save(small_disk, 3)
    assert found_step(small_disk) == 3


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_full_disk_loses_nothing_and_the_next_save_works(
    small_disk: Path, world_size: int
) -> None:
    save(small_disk, 1, world_size=world_size, entries=large_entries())
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(6 * 2**20))
    writers = save(small_disk, 2, world_size=world_size, entries=large_entries())
    assert "No space left on device" in writers[0].last_failure
    assert writers[0].failures == 1
    assert found_step(small_disk) == 1
    save(small_disk, 3, world_size=world_size, entries=large_entries())
    ballast.unlink()
    save(small_disk, 4, world_size=world_size, entries=large_entries(), keep=1)
    assert found_step(small_disk) == 4
    assert len(folder_names(small_disk)) == 2


def test_parts_of_a_state_before_the_newest_checkpoint_stay_while_they_are_saved(
    tmp_path: Path,
) -> None:
    save(tmp_path, 9)
    writers = [leader(tmp_path) for _ in range(2)]
    for rank in (1, 0):  # the leader, which removes what is obsolete, comes last
        held = holding(4, world_size=2, rank=rank, round_number=2)
        writers[rank].save(held, origin=world(2), may_publish=always)
        if rank == 1:
            assert writers[rank].wait(60)
    assert writers[0].wait(60)
    for writer in writers:
        writer.close()
    assert found_step(tmp_path) == 4
