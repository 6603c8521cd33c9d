"""Pods that must end while no operator is left to publish a round without them."""

import pytest

from concertina_api.v1alpha1 import Intent
from concertina_trainer.checkpoint.reader import find, verify
from tests.fleet import Fleet
from tests.tasks import job_document


def long_job(**changes):
    checkpoint = {"path": "checkpoints", "everySeconds": None}
    return job_document(**{"samples": 10**6, "checkpoint": checkpoint, **changes})


def saved(fleet):
    """The newest checkpoint, if there is one; it is sound."""
    checkpoint = find(fleet.folder / "checkpoints", job=fleet.job.metadata.name)
    if checkpoint is not None:
        verify(checkpoint, part=0, parts=1)
    return checkpoint


@pytest.mark.matrix
def test_when_all_pods_must_end_and_no_round_comes_they_save_in_half_of_their_grace(tmp_path):
    with Fleet(tmp_path, long_job()) as fleet:
        fleet.start("a", "b")
        fleet.publish(["a", "b"])
        fleet.wait_steps(3)
        for name in ("a", "b"):
            fleet.notice(name, seconds=20)
        fleet.wait(lambda: saved(fleet) is not None, "a checkpoint")
        step = saved(fleet).manifest.identity.step

        # They train on for as long as they may, and then save together what they hold.
        fleet.wait_end("a", "b", code=1)
        assert "no membership after round 1" in fleet.pods["a"].status.failure.message
        assert saved(fleet).manifest.identity.step > step


def test_a_round_that_comes_makes_a_save_needless(tmp_path):
    with Fleet(tmp_path, long_job()) as fleet:
        fleet.start("a", "b")
        fleet.publish(["a", "b"])
        fleet.wait_steps(3)
        fleet.notice("b", seconds=600)
        fleet.publish(["a"], leaving=["b"])
        fleet.wait_end("b")
        fleet.wait_round(2, ["a"])
        assert saved(fleet) is None


@pytest.mark.matrix
def test_a_job_that_is_suspended_as_it_loses_rank_0_saves_the_snapshot_of_it(tmp_path):
    with Fleet(tmp_path, long_job(snapshots={"everySteps": 2})) as fleet:
        fleet.start("a", "b", "c")
        fleet.publish(["a", "b", "c"])
        fleet.wait_steps(8)
        fleet.kill("a")
        fleet.publish([], leaving=["b", "c"], lost=["a"], intent=Intent.SUSPEND)
        fleet.wait_end("b", "c")

        assert saved(fleet).manifest.identity.step > 0
