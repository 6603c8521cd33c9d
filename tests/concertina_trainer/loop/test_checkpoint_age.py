"""How old the newest checkpoint is for whoever leads, also when others led before."""

import time

import pytest

from concertina_api.v1alpha1 import JobSpec, Member, Membership
from concertina_trainer.loop.saving import Saver
from tests.cluster.api import wait_for
from tests.concertina_trainer.checkpoint.states import holding
from tests.tasks import job_document

BOTH = Membership(
    round=1,
    members=tuple(
        Member(pod=f"tiny-{index}", uid=f"u{index}", incarnation="1", host="127.0.0.1", port=1)
        for index in range(2)
    ),
)


@pytest.fixture
def savers(tmp_path):
    spec = JobSpec.model_validate(job_document()["spec"])
    made = [
        Saver(spec, job="tiny-lm", run_dir=tmp_path, may_publish=lambda: True) for _ in range(2)
    ]
    yield made
    for saver in made:
        saver.close()


def test_a_change_of_leader_makes_no_checkpoint_younger(savers):
    leader, other = savers
    for rank, saver in enumerate(savers):
        saver.enter(BOTH, rank=rank)
    joined = other.safe_at
    for rank, saver in enumerate(savers):
        saver.save(holding(5, rank=rank, world_size=2))
    copied_by = time.monotonic()
    wait_for(lambda: leader.last is not None, lambda: f"not saved: {leader.trouble}")
    wait_for(lambda: other.safe_at > joined, lambda: "its part is not written")

    left = BOTH.model_copy(update={"round": 2, "members": BOTH.members[1:]})
    other.enter(left, rank=0)

    assert other.last is None
    assert other.safe_at <= copied_by


def test_of_checkpoints_before_it_joined_a_worker_knows_nothing(savers):
    begun = time.monotonic()
    leader, _ = savers
    leader.enter(BOTH, rank=0)
    joined = leader.safe_at
    leader.enter(BOTH, rank=0)

    assert begun <= joined == leader.safe_at
