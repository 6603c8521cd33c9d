"""Whether a worker saves, by where its checkpoints lie and how many pods train."""

import math
from pathlib import Path

import pytest

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.checkpoint.interval import FIRST_SECONDS, daly
from concertina_trainer.checkpoint.writer import Writer
from concertina_trainer.loop.context import worker_context
from concertina_trainer.loop.saving import checkpoint_location
from tests.cluster.api import wait_for
from tests.concertina_trainer.checkpoint.states import holding
from tests.concertina_trainer.loop.savers import membership, stuck
from tests.tasks import job_document


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
    assert (saver.lacking_bytes(holding(5, world_size=pods)) > 0) is want
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
