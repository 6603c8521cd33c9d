"""Survivors without an operator, each with the parts that it holds, and one folder for all."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from concertina_api.v1alpha1 import JobSpec, Member, Membership
from concertina_trainer.checkpoint.folder_storage import FolderStorage
from concertina_trainer.checkpoint.reader import find, verify
from concertina_trainer.checkpoint.writer import Writer
from concertina_trainer.loop.last_save import save_together
from concertina_trainer.loop.saving import Saver
from concertina_trainer.sharding.state import Holding
from tests.concertina_trainer.checkpoint.states import checked, holding, save
from tests.tasks import job_document

WORLD = 3
SETTLE_SECONDS = 1.0
JOB = "tiny-lm"


def membership(*, number=1):
    members = tuple(
        Member(pod=f"tiny-{rank}", uid=f"u{rank}", incarnation="1", host="127.0.0.1", port=1)
        for rank in range(WORLD)
    )
    return Membership(round=number, members=members)


@pytest.fixture
def saver_of(tmp_path):
    """Makes the saver of a rank, which has trained in some rounds."""
    savers = []

    def make(rank, *, rounds=(1,), shares_storage=True):
        checkpoint = {"everySeconds": None, "path": "checkpoints"}
        saver = Saver(
            JobSpec.model_validate(job_document(checkpoint=checkpoint)["spec"]),
            job=JOB,
            run_dir=tmp_path,
            may_publish=lambda: True,
            shares_storage=shares_storage,
        )
        savers.append(saver)
        for number in rounds:
            saver.enter(membership(number=number), rank=rank)
        return saver

    yield make
    for saver in savers:
        saver.close()


def own(rank, step, **options):
    return holding(step, world_size=WORLD, rank=rank, **options), False


def kept(rank, step, **options):
    return holding(step, world_size=WORLD, rank=rank, **options), True


def survive(savers, parts, *, seconds=SETTLE_SECONDS):
    """What each rank does with its parts, all at once."""

    def end(rank):
        save_together(savers[rank], parts[rank], settle_seconds=seconds)

    with ThreadPoolExecutor(len(parts)) as threads:
        list(threads.map(end, parts))


def saved_step(path):
    """The step of the newest checkpoint, whose content is that of the state; None without one."""
    checkpoint = find(path / "checkpoints", job=JOB)
    if checkpoint is None:
        return None
    verify(checkpoint, part=0, parts=1)
    return checked(checkpoint)


@pytest.mark.parametrize(
    ("parts", "want"),
    [
        pytest.param(
            {1: [own(1, 6), own(1, 4), kept(0, 4)], 2: [own(2, 6), own(2, 4), kept(1, 4)]},
            4,
            id="a snapshot, for the state of rank 0 is lost",
        ),
        pytest.param(
            {0: [own(0, 6), own(0, 4)], 1: [own(1, 6), own(1, 4)], 2: [own(2, 6), own(2, 4)]},
            6,
            id="the state itself, for all are there",
        ),
        pytest.param(
            {0: [own(0, 4), kept(2, 4)], 1: [own(1, 4), kept(0, 4)]},
            4,
            id="without the last rank",
        ),
        pytest.param(
            {1: [own(1, 6), own(1, 4), kept(0, 4), kept(0, 6)], 2: [own(2, 6), own(2, 4)]},
            6,
            id="the newer of two snapshots",
        ),
        pytest.param(
            {0: [own(0, 4), kept(2, 4), own(0, 2)], 1: [own(1, 6), own(1, 4)]},
            4,
            id="one that is older than what some hold",
        ),
        pytest.param({2: [own(2, 4), kept(1, 4)]}, None, id="nothing, for a part is lost"),
    ],
)
def test_survivors_save_the_newest_state_that_they_hold_between_them(
    saver_of, tmp_path, parts, want
):
    survive({rank: saver_of(rank) for rank in parts}, parts)
    assert saved_step(tmp_path) == want


def test_a_part_is_written_by_its_owner_and_its_keeper_leaves_it(saver_of, tmp_path, monkeypatch):
    written = []
    save_part = Writer.save

    def recorded(writer: Writer, part: Holding, **options):
        written.append((part.rank, part.step))
        save_part(writer, part, **options)

    monkeypatch.setattr(Writer, "save", recorded)
    parts = {rank: [own(rank, 4), kept((rank - 1) % WORLD, 4)] for rank in range(WORLD)}
    survive({rank: saver_of(rank) for rank in parts}, parts)
    assert sorted(written) == [(rank, 4) for rank in parts]
    assert saved_step(tmp_path) == 4


def test_a_snapshot_of_an_earlier_round_has_the_same_name_for_all(saver_of, tmp_path):
    savers = {1: saver_of(1, rounds=(1, 2)), 2: saver_of(2, rounds=(1,))}
    survive(savers, {1: [own(1, 4), kept(0, 4)], 2: [own(2, 4)]})
    assert saved_step(tmp_path) == 4


def test_a_newer_checkpoint_is_not_replaced(saver_of, tmp_path, caplog):
    savers = {1: saver_of(1), 2: saver_of(2)}
    save(tmp_path / "checkpoints", 9, job=JOB)
    survive(savers, {1: [own(1, 4), kept(0, 4)], 2: [own(2, 4)]})
    assert saved_step(tmp_path) == 9
    assert "is newer" in caplog.text


def test_a_save_of_the_same_state_that_waits_for_the_lost_one_gives_way(saver_of, tmp_path):
    savers = {0: saver_of(0), 2: saver_of(2)}
    for rank, saver in savers.items():
        part, _ = own(rank, 4)
        saver.save(part)
    survive(savers, {0: [own(0, 4)], 2: [own(2, 4), kept(1, 4)]})
    assert saved_step(tmp_path) == 4


def test_pods_with_a_folder_each_leave_no_trace(saver_of, tmp_path):
    savers = {1: saver_of(1, shares_storage=False)}
    survive(savers, {1: [own(1, 4), kept(0, 4)]}, seconds=0.1)
    assert not (tmp_path / "checkpoints").exists()


def test_a_storage_that_fails_is_told_of(saver_of, tmp_path, caplog):
    savers = {1: saver_of(1)}
    (tmp_path / "checkpoints").write_text("in the way")
    survive(savers, {1: [own(1, 4), kept(0, 4)]}, seconds=0.1)
    assert f"Not a directory: '{tmp_path}/checkpoints" in caplog.text


def test_a_storage_that_does_not_answer_holds_nobody_up(saver_of, caplog):
    saver = saver_of(1)
    answer = Event()

    class Silent(FolderStorage):
        def within(self, folder):
            answer.wait()
            return super().within(folder)

    saver.storage = Silent(saver.storage.path)
    survive({1: saver}, {1: [own(1, 4)]}, seconds=0.1)
    answer.set()
    assert "does not answer: nothing is saved" in caplog.text
