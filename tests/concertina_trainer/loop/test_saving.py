"""Whether a worker saves, by where its checkpoints lie and how many pods train."""

import pytest

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import JobSpec, Member, Membership
from concertina_trainer.checkpoint.writer import Writer
from concertina_trainer.loop.context import worker_context
from concertina_trainer.loop.saving import Saver
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

    def make(*, pods, shares_storage, rank=0):
        spec = JobSpec.model_validate(
            job_document(checkpoint={"everySeconds": 1, "path": "checkpoints"})["spec"]
        )
        saver = Saver(
            spec,
            job="tiny-lm",
            run_dir=tmp_path,
            may_publish=lambda: True,
            shares_storage=shares_storage,
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
