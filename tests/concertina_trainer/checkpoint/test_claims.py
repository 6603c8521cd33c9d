from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from concertina_trainer.checkpoint import publish
from concertina_trainer.checkpoint.claims import claim, is_claimed, is_whole, newest_first
from concertina_trainer.checkpoint.folder_storage import FolderStorage
from concertina_trainer.checkpoint.format import Identity, identity_of, report_name
from concertina_trainer.checkpoint.storage import Storage
from tests.concertina_trainer.checkpoint.states import JOB, holding, world


def identity(step: int, *, round_number: int = 1, world_size: int = 2) -> Identity:
    held = holding(step, world_size=world_size, round_number=round_number)
    return identity_of(held, job=JOB, origin=world(round_number))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return FolderStorage(tmp_path / "checkpoints")


def test_of_several_that_claim_a_part_at_once_one_gets_it(storage: Storage) -> None:
    workers = 8
    barrier = Barrier(workers)

    def ask(_: int) -> bool:
        barrier.wait()
        return claim(storage, identity=identity(4), rank=1)

    with ThreadPoolExecutor(workers) as threads:
        assert sorted(threads.map(ask, range(workers))) == [False] * (workers - 1) + [True]


def test_a_state_is_whole_when_all_parts_of_this_very_state_are_claimed(storage: Storage) -> None:
    assert not is_whole(storage, identity=identity(4))
    for step, rank in ((4, 0), (3, 0), (3, 1), (4, 1)):
        assert not is_whole(storage, identity=identity(4))
        assert claim(storage, identity=identity(step), rank=rank)
    assert is_whole(storage, identity=identity(4))
    assert not is_whole(storage, identity=identity(4, round_number=2))


def test_a_claim_takes_back_that_an_earlier_try_failed(storage: Storage) -> None:
    publish.report_failure(storage, identity=identity(4), rank=1, reason="disk full")
    folder = storage.within(identity(4).folder)
    assert report_name(1) in folder.names()
    claim(storage, identity=identity(4), rank=1)
    assert report_name(1) not in folder.names()
    publish.report_failure(storage, identity=identity(4), rank=1, reason="disk full")
    assert not claim(storage, identity=identity(4), rank=1)
    assert report_name(1) in folder.names(), "it is its owner's, who has claimed it"


def test_what_is_claimed_is_not_taken_away_with_an_earlier_try(storage: Storage) -> None:
    folder = storage.within(identity(4).folder)
    folder.write("part", [b"x"])
    claim(storage, identity=identity(4), rank=1)
    assert is_claimed(folder)
    publish.withdraw(storage, identity=identity(4))
    assert "part" in folder.names()


def test_rounds_count_before_steps() -> None:
    states = [identity(step, round_number=number) for step, number in ((7, 1), (5, 2), (6, 2))]
    assert newest_first([*states, states[0]]) == [states[2], states[1], states[0]]
