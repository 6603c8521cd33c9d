"""Workers that fall silent, those that return from it with an old round, and no operator at all."""

import json
import os
import signal

from concertina_api.v1alpha1 import FailureCause, Intent, PodPhase
from concertina_trainer.checkpoint.reader import find, load, verify
from tests.fleet import Fleet
from tests.tasks import job_document


def long_job(**changes):
    checkpoint = {"path": "checkpoints", "everySeconds": 1}
    return job_document(**{"samples": 10**6, "checkpoint": checkpoint, **changes})


def newest_checkpoint(fleet):
    """(round, step) of the checkpoint that `latest` names; None before the first."""
    folder = fleet.folder / "checkpoints"
    if not (folder / "latest").exists():
        return None
    manifest = folder / (folder / "latest").read_text().strip() / "manifest.json"
    identity = json.loads(manifest.read_bytes())["identity"]
    return identity["round"], identity["step"]


def test_rank_0_that_returns_with_an_old_round_does_no_harm(tmp_path):
    with Fleet(tmp_path, long_job()) as fleet:
        fleet.start("a", "b", "c")
        fleet.publish(["a", "b", "c"])
        fleet.wait(lambda: newest_checkpoint(fleet), "a checkpoint of all three")
        os.kill(fleet.pods["a"].process.pid, signal.SIGSTOP)
        try:
            # Nobody's connection is closed: what blocks the others is broken off by the membership.
            fleet.publish(["b", "c"], lost=["a"], to=["b", "c"])
            fleet.wait_round(2, ["b", "c"])
            fleet.wait(lambda: newest_checkpoint(fleet)[0] == 2, "a checkpoint of the two")
        finally:
            os.kill(fleet.pods["a"].process.pid, signal.SIGCONT)
        # Its agent needs a moment to learn of round 2; till then the worker knows only its own.
        before = newest_checkpoint(fleet)
        fleet.wait(lambda: newest_checkpoint(fleet) > before, "training goes on beside it")
        fleet.publish(["b", "c"])
        fleet.wait_end("a", code=3)
        fleet.wait_round(3, ["b", "c"])
        fleet.publish([], leaving=["b", "c"], intent=Intent.STOP)
        fleet.wait_end("b", "c")

        assert fleet.pods["a"].status.failure.cause is FailureCause.INFRASTRUCTURE
        steps = fleet.steps()
        assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
        assert {row["round"] for row in steps if row["step"] > before[1]} == {2, 3}
        assert newest_checkpoint(fleet) == (3, steps[-1]["step"])


def test_survivors_without_an_operator_end_when_its_time_is_over_and_nobody_is_blamed(tmp_path):
    policy = {"arbiterTimeoutSeconds": 1}
    job = job_document(samples=10**6, failurePolicy=policy)
    with Fleet(tmp_path, job) as fleet:
        fleet.start("a", "b")
        fleet.publish(["a", "b"])
        fleet.wait_steps(3)
        fleet.kill("b")
        fleet.wait_end("a", code=1)

        status = fleet.pods["a"].status
        assert status.phase is PodPhase.FAILED
        assert status.failure.cause is FailureCause.INFRASTRUCTURE
        assert "no membership after round 1 within 1 s" in status.failure.message


def test_survivors_without_an_operator_save_the_snapshot_that_they_hold_between_them(tmp_path):
    """Rank 0's part is in the memory of its neighbour."""
    job = job_document(
        samples=10**6,
        checkpoint={"path": "checkpoints", "everySeconds": None},
        snapshots={"everySteps": 2},
        failurePolicy={"arbiterTimeoutSeconds": 5},
    )
    with Fleet(tmp_path, job) as fleet:
        fleet.start("a", "b", "c")
        fleet.publish(["a", "b", "c"])
        fleet.wait(lambda: snapshot_step(fleet, "a") > 2, "a snapshot of a step")
        fleet.kill("a")
        fleet.wait_end("b", "c", code=1)

    round_number, step = newest_checkpoint(fleet)
    assert round_number == 1
    assert fleet.steps()[-1]["step"] - 8 <= step
    checkpoint = find(tmp_path / "checkpoints", job=fleet.job.metadata.name)
    verify(checkpoint, part=0, parts=1)
    whole = load(checkpoint, world_size=1, rank=0)
    assert whole.extra["samples"] == 8 * step


def snapshot_step(fleet, name):
    """The newest step of which all workers hold a snapshot."""
    status = fleet.pods[name].status
    told = status.snapshot if status is not None else None
    return (told.step or 0) if told is not None else 0
