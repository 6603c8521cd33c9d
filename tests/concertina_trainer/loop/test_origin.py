"""Which checkpoint goes before a snapshot, among real workers that agree on it."""

import errno
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from concertina_api.errors import TrainingFailed
from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.causes import account_of
from concertina_trainer.checkpoint.folder_storage import FolderStorage
from concertina_trainer.checkpoint.format import origin
from concertina_trainer.checkpoint.storage import storage_at
from concertina_trainer.checkpoint.writer import Writer
from concertina_trainer.loop import origin as beginning
from concertina_trainer.loop.origin import Origin
from concertina_trainer.rounds.agreement import State
from concertina_trainer.rounds.transport import Groups
from tests import worlds
from tests.concertina_trainer.checkpoint.states import JOB, holding
from tests.tasks import TinyTask, job_document

SNAPSHOT = State(step=10, round=2, world_size=3)


def save(folder, saved, *, damaged):
    """Checkpoints of one worker, by round and step; `damaged`: steps."""
    writer = Writer(folder, job=JOB, keep=9)
    for number, step in saved:
        state = holding(step, round_number=number)
        writer.save(state, origin=origin(["a"]), may_publish=lambda: True)
        assert writer.wait(60)
    writer.close()
    assert writer.failures == 0
    for step in damaged:
        (file,) = Path(folder).glob(f"step-{step:09d}-*/rank-00000.safetensors")
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)


def found(folder, written, before):
    """What the members and the leaver of a round of three are told, and the rows that they get."""
    rank, group = dist.get_rank(), dist.group.WORLD
    assert isinstance(group, dist.ProcessGroup)
    find = Origin(
        JobSpec.model_validate(job_document()["spec"]),
        TinyTask(),
        job=JOB,
        storage=storage_at(folder),
        device=torch.device("cpu"),
        written_step=lambda: written if rank == 1 else 0,
    )
    groups = Groups(rank, dist.get_world_size(), group, mesh=None)
    loaded = find.newer(groups, SNAPSHOT, world_size=2, before=before)
    if loaded is None:
        return None
    if loaded.part is None:
        return "sound"
    want = holding(loaded.part.step, world_size=2, rank=rank).tensors
    assert all(torch.equal(loaded.part.tensors[name], want[name]) for name in want)
    return loaded.part.step


@pytest.mark.parametrize(
    ("saved", "damaged", "written", "before", "want"),
    [
        pytest.param([(2, 8), (2, 14)], [], 14, None, 14, id="a later step of the same round"),
        pytest.param([(2, 10)], [], 14, None, None, id="the step of the snapshot"),
        pytest.param([(1, 14)], [], 14, None, None, id="of a history that was given up"),
        pytest.param([(2, 12), (2, 14)], [14], 14, None, 12, id="the newest that is sound"),
        pytest.param([(2, 8), (2, 14)], [14], 14, None, None, id="only a damaged one is ahead"),
        pytest.param([(2, 14)], [], 14, 15, 14, id="before the steps that are skipped"),
        pytest.param([(2, 14)], [], 14, 14, None, id="one of the steps that are skipped"),
        pytest.param([], [], 14, None, None, id="a save that never became a checkpoint"),
    ],
)
def test_a_checkpoint_that_is_ahead_goes_before_the_snapshot(
    tmp_path, saved, damaged, written, before, want
):
    folder = str(tmp_path / "checkpoints")
    save(folder, saved, damaged=damaged)

    leaver = None if want is None else "sound"
    assert worlds.run(found, 3, folder, written, before) == [want, want, leaver]


def test_a_storage_that_holds_nothing_newer_is_not_asked(tmp_path):
    # Reading a file where the folder should be fails, and would be tried again for minutes.
    (tmp_path / "checkpoints").write_text("")

    assert worlds.run(found, 3, str(tmp_path / "checkpoints"), 10, None) == [None] * 3


class Failing(FolderStorage):
    """A storage that a worker cannot read."""

    def __init__(self, error):
        super().__init__(Path("/nowhere"))
        self._error = error

    def names(self):
        raise self._error

    def read(self, *_):
        raise self._error


def blamed(number):
    """What a rank is told of a start from a storage that its leader cannot read any more."""
    rank, group = dist.get_rank(), dist.group.WORLD
    assert isinstance(group, dist.ProcessGroup)
    find = Origin(
        JobSpec.model_validate(job_document()["spec"]),
        TinyTask(),
        job=JOB,
        storage=Failing(OSError(number, "away")),
        device=torch.device("cpu"),
        written_step=lambda: 0,
    )
    seconds, beginning.STORAGE_SECONDS = beginning.STORAGE_SECONDS, -1.0
    try:
        with pytest.raises(TrainingFailed, match="cannot be read for") as caught:
            find(Groups(rank, dist.get_world_size(), group, mesh=None))
    finally:
        beginning.STORAGE_SECONDS = seconds
    return account_of(caught.value).cause.value


@pytest.mark.parametrize(
    ("number", "want"),
    [
        pytest.param(errno.ETIMEDOUT, "Infrastructure", id="silent"),
        pytest.param(errno.ESTALE, "Infrastructure", id="a mount that is gone"),
        pytest.param(errno.EBUSY, "Infrastructure", id="an object storage with too much to do"),
        pytest.param(errno.EACCES, "Exception", id="a right that is missing"),
    ],
)
def test_a_storage_that_stays_away_is_blamed_by_who_asked_it(number, want):
    assert worlds.run(blamed, 2, number) == [want, "Infrastructure"]
