"""The last save: how long it is waited for, with whom, and whose fault it is when it fails."""

import errno
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from concertina_api.errors import StorageUnavailable, TrainingFailed
from concertina_api.v1alpha1 import FailureCause
from concertina_trainer.causes import account_of
from concertina_trainer.checkpoint import publish
from concertina_trainer.checkpoint.save import Saves
from tests.cluster.api import wait_for
from tests.concertina_trainer.checkpoint.states import holding
from tests.concertina_trainer.loop.savers import stuck


def test_who_must_end_soon_does_not_wait_longer_for_a_silent_storage(saver_of):
    saver = saver_of(grace=1.0)
    pipe = stuck(saver, 5)
    begun = time.monotonic()
    with pytest.raises(TrainingFailed, match=r"the last checkpoint \(step 5\) is not saved: not"):
        saver.save_now(holding(5))
    assert time.monotonic() - begun < 10
    with pipe.open("rb") as opened:
        opened.read()


def test_who_waits_in_vain_for_a_silent_storage_does_not_blame_the_job(saver_of):
    saver = saver_of(grace=1.0)
    pipe = stuck(saver, 5)
    with pytest.raises(StorageUnavailable) as caught:
        saver.save_now(holding(5))
    assert account_of(caught.value).cause is FailureCause.INFRASTRUCTURE
    with pipe.open("rb") as opened:
        opened.read()


def full(monkeypatch):
    """Every write finds the disk full."""

    def no_space(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publish, "write_tensors", no_space)


def refused(monkeypatch):
    """Every write is refused, as by an object storage whose token has expired."""

    def denied(*_args, **_options):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(publish, "write_tensors", denied)


def failing(monkeypatch):
    """The task's own objects do not let themselves be written."""

    def wrong(*_args, **_options):
        raise ValueError("no such dtype")

    monkeypatch.setattr(publish, "write_tensors", wrong)


OUTSIDE, USER = FailureCause.INFRASTRUCTURE, FailureCause.EXCEPTION


@pytest.mark.parametrize(
    ("trouble", "saved_before", "want"),
    [
        pytest.param(full, False, OUTSIDE, id="a full disk"),
        pytest.param(refused, True, OUTSIDE, id="a right that was there before"),
        pytest.param(refused, False, USER, id="a right that was never given"),
        pytest.param(failing, True, USER, id="the task's own error"),
    ],
)
def test_a_last_checkpoint_that_fails_says_whose_fault_it_is(
    saver_of, monkeypatch, trouble, saved_before, want
):
    saver = saver_of()
    if saved_before:
        saver.save_now(holding(4))
    trouble(monkeypatch)

    with pytest.raises(
        TrainingFailed, match=r"the last checkpoint \(step 5\) is not saved"
    ) as told:
        saver.save_now(holding(5))

    assert account_of(told.value).cause is want


def test_what_a_peer_could_not_save_is_not_the_leaders_fault(saver_of, monkeypatch):
    leader, peer = (saver_of(pods=2, rank=rank) for rank in (0, 1))
    full(monkeypatch)
    with pytest.raises(TrainingFailed):
        peer.save_now(holding(5, rank=1, world_size=2))
    monkeypatch.undo()

    with pytest.raises(StorageUnavailable, match=r"rank 1 could not save: OSError: .*No space"):
        leader.save_now(holding(5, world_size=2))


def test_parts_that_nobody_failed_to_write_are_the_jobs_fault(saver_of):
    leader = saver_of(pods=2, grace=1.0)
    with pytest.raises(TrainingFailed, match="no parts of others within 1 s") as caught:
        leader.save_now(holding(5, world_size=2))
    assert account_of(caught.value).cause is USER


def test_an_older_save_that_is_given_up_does_not_make_the_last_one_fail(saver_of):
    saver = saver_of(grace=4.0)
    saver.save(holding(4, world_size=2))  # it waits for a part that does not come
    saver.save_now(holding(5))

    assert saver.last.step == 5
    assert saver.failures == 1


def steadfast():
    return False


def test_nobody_is_done_before_the_leader_has_made_it_durable(saver_of):
    leader, peer = (saver_of(pods=2, rank=rank) for rank in (0, 1))
    with ThreadPoolExecutor() as threads:
        last = holding(5, rank=1, world_size=2)
        waits = threads.submit(peer.save_with_others, last, gives_up=steadfast)
        report = peer.storage.path / peer.identity_of(last).folder / "rank-00001.json"
        wait_for(report.exists, lambda: f"no part: {peer.trouble}")
        assert not waits.done()

        assert leader.save_with_others(holding(5, world_size=2), gives_up=steadfast)

        assert waits.result(timeout=60)
    assert leader.last.step == 5


@pytest.mark.parametrize("rank", [0, 1])
def test_who_waits_for_somebody_who_is_gone_gives_up(saver_of, rank):
    saver = saver_of(pods=2, rank=rank)
    last = holding(5, rank=rank, world_size=2)

    def gone():
        return (
            saver.storage.path / saver.identity_of(last).folder / f"rank-{rank:05}.json"
        ).exists()

    assert not saver.save_with_others(last, gives_up=gone)


def test_a_part_of_who_gave_up_stays_for_the_leader(saver_of):
    leader, peer = (saver_of(pods=2, rank=rank) for rank in (0, 1))
    last = holding(5, rank=1, world_size=2)
    report = peer.storage.path / peer.identity_of(last).folder / "rank-00001.json"
    assert not peer.save_with_others(last, gives_up=report.exists)
    peer.close()

    leader.save_now(holding(5, world_size=2))

    assert leader.last.step == 5


def test_a_leader_that_makes_nothing_durable_in_time_is_left_to_the_next_round(
    saver_of, monkeypatch
):
    monkeypatch.setattr("concertina_trainer.loop.saving.FINAL_SAVE_SECONDS", 0.5)
    monkeypatch.setattr("concertina_trainer.loop.saving.LEADER_FIRST_SECONDS", 0.5)
    peer = saver_of(pods=2, rank=1)
    assert not peer.save_with_others(holding(5, rank=1, world_size=2), gives_up=steadfast)


def test_who_must_end_leaves_its_part_to_the_others(saver_of):
    leader, peer = saver_of(pods=2), saver_of(pods=2, rank=1, grace=1.0)
    with pytest.raises(StorageUnavailable, match=r"\(step 5\) is not saved: not within 1 s"):
        peer.save_with_others(holding(5, rank=1, world_size=2), gives_up=steadfast)
    assert leader.save_with_others(holding(5, world_size=2), gives_up=steadfast)


def test_what_was_durable_when_a_newer_round_came_is_durable(saver_of, monkeypatch):
    swept = Event()

    def sweep(_saves, *, beside=None):
        if beside is None:  # it is called after a save, too
            swept.wait(60)

    monkeypatch.setattr(Saves, "sweep", sweep)
    leader = saver_of()

    assert leader.save_with_others(holding(5), gives_up=lambda: leader.last is not None)
    swept.set()


def test_no_save_is_begun_in_a_round_that_is_over(saver_of):
    saver = saver_of()
    assert not saver.save_with_others(holding(5), gives_up=lambda: True)
    assert not saver.storage.path.exists()


def test_a_leader_whose_peer_gave_up_waits_for_the_next_round_and_keeps_the_parts(saver_of):
    leader, peer, other = (saver_of(pods=3, rank=rank) for rank in range(3))
    last = [holding(5, rank=rank, world_size=3) for rank in range(3)]
    other.save_now(last[2])
    identity = peer.identity_of(last[1])
    publish.report_failure(peer.storage, identity=identity, rank=1, reason="it was abandoned")

    assert not leader.save_with_others(last[0], gives_up=steadfast)

    peer.save_now(last[1])
    leader.save_now(last[0])
    assert leader.last.step == 5


def test_a_last_save_that_finds_the_disk_full_leaves_nothing_on_it(saver_of, monkeypatch):
    leader, peer = saver_of(pods=2), saver_of(pods=2, rank=1)
    peer.save_now(holding(5, rank=1, world_size=2))
    full(monkeypatch)
    with pytest.raises(TrainingFailed, match="No space left"):
        leader.save_with_others(holding(5, world_size=2), gives_up=steadfast)
    assert leader.storage.names() == []
