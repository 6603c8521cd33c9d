"""Whether a worker saves, by where its checkpoints lie and how many pods train."""

import errno
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from concertina_api.errors import InvalidJob, StorageUnavailable, TrainingFailed
from concertina_api.v1alpha1 import FailureCause, JobSpec, Member, Membership
from concertina_trainer.causes import account_of
from concertina_trainer.checkpoint import publish
from concertina_trainer.checkpoint.format import origin
from concertina_trainer.checkpoint.interval import FIRST_SECONDS, daly
from concertina_trainer.checkpoint.save import Saves
from concertina_trainer.checkpoint.writer import Writer
from concertina_trainer.loop.context import worker_context
from concertina_trainer.loop.saving import Saver, checkpoint_location
from tests.cluster.api import wait_for
from tests.concertina_trainer.checkpoint.states import holding
from tests.tasks import job_document


def membership(*, pods):
    members = tuple(
        Member(pod=f"tiny-{index}", uid=f"u{index}", incarnation="1", host="127.0.0.1", port=1)
        for index in range(pods)
    )
    return Membership(round=1, members=members)


@pytest.fixture
def saver_of(tmp_path):
    savers = []

    def make(*, pods=1, shares_storage=True, rank=0, grace=None, **checkpoint):
        settings = {"everySeconds": 1, "path": "checkpoints"} | checkpoint
        spec = JobSpec.model_validate(job_document(checkpoint=settings)["spec"])
        saver = Saver(
            spec,
            job="tiny-lm",
            run_dir=tmp_path,
            may_publish=lambda: True,
            shares_storage=shares_storage,
            grace_left=lambda: grace,
        )
        savers.append(saver)
        saver.enter(membership(pods=pods), rank=rank)
        return saver

    yield make
    for saver in savers:
        saver.close()


def test_pods_with_a_folder_each_save_nothing_and_wait_for_nothing(saver_of, caplog):
    saver = saver_of(pods=2, shares_storage=False)
    sharing = saver_of(pods=2, shares_storage=True)
    wait_for(sharing.is_due, lambda: "no save is due")

    assert not saver.is_due()
    saver.save_now(holding(5, world_size=2))

    assert saver.last is None
    assert not saver.storage.path.exists()
    want = "the state of step 5 ends with the pods: no checkpoint is saved while 2 pods train"
    assert want in caplog.text
    assert saver.storage.location in caplog.text


def test_the_leader_alone_says_that_nothing_is_saved(saver_of, caplog):
    saver = saver_of(pods=2, shares_storage=False, rank=1)
    saver.save_now(holding(5, world_size=2))

    assert saver.last is None
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("pods", "shares_storage", "want"),
    [
        pytest.param(2, False, False, id="pods with a folder each"),
        pytest.param(2, True, True, id="pods that share one"),
        pytest.param(1, False, True, id="one pod"),
    ],
)
def test_memory_and_an_interval_are_for_those_who_can_save(
    saver_of, monkeypatch, pods, shares_storage, want
):
    reserved = []
    monkeypatch.setattr(Writer, "reserve", lambda _writer, state: reserved.append(state.step))
    saver = saver_of(pods=pods, shares_storage=shares_storage)

    saver.reserve(holding(5, world_size=pods))

    assert reserved == ([5] if want else [])
    assert saver.interval_seconds == (1 if want else None)


@pytest.mark.parametrize("shares_storage", [True, False])
def test_one_pod_saves_wherever_its_folder_is(saver_of, shares_storage):
    saver = saver_of(pods=1, shares_storage=shares_storage)
    saver.save_now(holding(5))

    assert saver.last.step == 5


def test_a_pod_that_is_left_alone_saves_again(saver_of):
    saver = saver_of(pods=2, shares_storage=False)
    saver.enter(membership(pods=1), rank=0)
    saver.save_now(holding(5))

    assert saver.last.step == 5


def stuck(saver, step):
    """A storage that does not answer: a pipe, from which nobody reads, where a file will be."""
    folder = saver.storage.path / f"step-{step:09d}-r1-{origin(membership(pods=1).workers())}"
    folder.mkdir(parents=True)
    pipe = folder / ".rank-00000.safetensors"
    os.mkfifo(pipe)
    return pipe


def test_who_must_end_soon_does_not_wait_longer_for_a_silent_storage(saver_of):
    saver = saver_of(grace=1.0)
    pipe = stuck(saver, 5)
    begun = time.monotonic()
    with pytest.raises(TrainingFailed, match=r"the last checkpoint \(step 5\) is not saved: not"):
        saver.save_now(holding(5))
    assert time.monotonic() - begun < 10
    with pipe.open("rb") as opened:
        opened.read()


def test_a_save_that_hangs_hinders_neither_the_loop_nor_the_next_round(saver_of):
    saver = saver_of()
    pipe = stuck(saver, 5)
    saver.save(holding(5))
    assert not saver.is_due(), "one is being written"
    saver.enter(membership(pods=1), rank=0)
    saver.stepped(0.1, slots=2)
    with pipe.open("rb") as opened:
        opened.read()
    wait_for(lambda: saver.trouble, lambda: "the save does not end")
    wait_for(saver.is_due, lambda: "no save is due")
    saver.save(holding(6))
    wait_for(lambda: saver.last and saver.last.step == 6, lambda: saver.trouble)
    assert saver.trouble == ""


def test_after_a_failure_the_next_save_does_not_wait_for_the_whole_interval(saver_of, monkeypatch):
    monkeypatch.setattr("concertina_trainer.loop.saving.RETRY_SECONDS", 0.0)
    saver = saver_of(everySeconds=3600)
    assert not saver.is_due()
    saver.storage.path.write_text("in the way")
    saver.save(holding(5))
    wait_for(lambda: saver.failures == 1, lambda: "the save does not fail")
    wait_for(saver.is_due, lambda: "no save is due")


def test_a_measured_interval_follows_cost_and_losses(saver_of):
    saver = saver_of(everySeconds=100_000, interval="Measured")
    assert saver.interval_seconds == FIRST_SECONDS
    for _ in range(3):
        saver.stepped(10.0, slots=1)
    saver.save(holding(5))
    wait_for(lambda: saver.last, lambda: saver.trouble)
    saver.stepped(30.0, slots=1)
    calm = saver.interval_seconds
    want = math.sqrt(2 * 20 * 86_460)
    assert calm == pytest.approx(want, rel=0.02)
    lost = membership(pods=2).members[1:]
    for number in (2, 3):
        again = membership(pods=1).model_copy(update={"round": number, "lost": lost})
        saver.enter(again, rank=0)
    assert saver.interval_seconds == pytest.approx(daly(20, 60), rel=0.03), "one loss in 60 s"


def test_a_measured_interval_is_never_longer_than_the_given_one(saver_of):
    assert saver_of(everySeconds=7, interval="Measured").interval_seconds == 7
    assert saver_of(everySeconds=None, interval="Measured").interval_seconds is None


@pytest.mark.parametrize(
    ("path", "want"),
    [
        pytest.param("checkpoints", "/run/checkpoints", id="of the run"),
        pytest.param("/data", "/data/tiny-lm", id="a volume of several jobs"),
        pytest.param("s3://bucket/all/", "s3://bucket/all/tiny-lm", id="a bucket of several jobs"),
    ],
)
def test_each_job_has_a_folder_of_its_own(path, want):
    spec = JobSpec.model_validate(job_document(checkpoint={"path": path})["spec"])
    assert checkpoint_location(spec, job="tiny-lm", run_dir=Path("/run")) == want


WORKER = {
    "CONCERTINA_POD": "tiny-0",
    "CONCERTINA_UID": "u0",
    "CONCERTINA_INCARNATION": "1",
    "CONCERTINA_MAILBOX": "/mailbox",
    "CONCERTINA_RUN_DIR": "/run",
}


@pytest.mark.parametrize(
    ("told", "want"),
    [
        pytest.param({}, True, id="an older operator says nothing"),
        pytest.param({"CONCERTINA_STORAGE": "Shared"}, True, id="a volume of all pods"),
        pytest.param({"CONCERTINA_STORAGE": "Pod"}, False, id="a folder that ends with its pod"),
    ],
)
def test_a_worker_is_told_whether_pods_share_storage(told, want):
    assert worker_context(WORKER | told).shares_storage is want


def test_another_word_for_storage_is_refused():
    with pytest.raises(InvalidJob, match="CONCERTINA_STORAGE 'pod' is neither Pod nor Shared"):
        worker_context(WORKER | {"CONCERTINA_STORAGE": "pod"})


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
