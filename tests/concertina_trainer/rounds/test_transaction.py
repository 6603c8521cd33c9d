"""The transaction of a round, with real workers that are killed at its points."""

import random
import time

import pytest

from concertina_api.v1alpha1 import Intent, PodPhase
from concertina_trainer.agent.mailbox import put
from concertina_trainer.rounds.phases import POINTS
from tests.fleet import Fleet
from tests.tasks import job_document


def long_job(samples=4000, **changes):
    # Without snapshots, which would spare a loss the checkpoint: tests/.../snapshot is about them.
    return job_document(**{"samples": samples, "snapshots": {"mode": "Off"}, **changes})


def assert_every_sample_once(fleet):
    position = 0
    for first, batch in fleet.samples_of_steps():
        assert first == position
        position = first + batch
    assert position >= fleet.job.spec.samples


def stop(fleet, members):
    """End the run in good order."""
    fleet.publish([], leaving=members, intent=Intent.STOP)
    fleet.wait_end(*members)


def test_a_joiner_killed_at_any_point_costs_the_others_nothing(tmp_path):
    with Fleet(tmp_path, long_job()) as fleet:
        fleet.start("a", "b")
        fleet.publish(["a", "b"])
        fleet.wait_steps(2)
        for number, point in enumerate(POINTS):
            joiner = f"joiner-{number}"
            fleet.start(joiner, kill_at=(1, point))
            fleet.publish(["a", "b", joiner])
            fleet.pods[joiner].process.join(60)
            assert fleet.pods[joiner].process.exitcode == -9, point
            newest = fleet.publish(["a", "b"], lost=[joiner])
            fleet.wait_round(newest.round, ["a", "b"])
            if point not in ("commit", "begin"):
                # The state never left the memory of a and b; after the commit a part had.
                assert fleet.pods["a"].status.acknowledged.source == "memory", point
                assert not [row for row in fleet.rows() if row.get("discarded")], point
        stop(fleet, ["a", "b"])


@pytest.mark.parametrize(
    ("victim", "points"),
    [
        pytest.param("a", POINTS[::2], id="rank 0, every other point"),
        pytest.param("b", POINTS[1::2], id="rank 1, the points between"),
        pytest.param("a", POINTS[1::2], id="rank 0, the others", marks=pytest.mark.matrix),
        pytest.param("b", POINTS[::2], id="rank 1, the others", marks=pytest.mark.matrix),
    ],
)
def test_a_holder_killed_at_any_point_returns_all_to_the_checkpoint(tmp_path, victim, points):
    job = long_job(checkpoint={"path": "checkpoints", "everySeconds": 0})
    with Fleet(tmp_path, job) as fleet:
        members = ["a", "b"]
        fleet.start(*members)
        fleet.publish(members)
        for number, point in enumerate(points):
            fleet.wait(lambda: (tmp_path / "checkpoints" / "latest").exists(), "a checkpoint")
            # Replace the victim by one that dies at its second round's point.
            other = members[1] if victim == "a" else members[0]
            doomed = f"doomed-{number}"
            fleet.start(doomed, kill_at=(2, point))
            old = members[0] if victim == "a" else members[1]
            members = [doomed, other] if victim == "a" else [other, doomed]
            newest = fleet.publish(members, leaving=[old])
            fleet.wait_end(old)
            fleet.wait_round(newest.round, members)
            spare = f"spare-{number}"
            fleet.start(spare)
            fleet.publish([*members, spare])
            fleet.pods[doomed].process.join(60)
            assert fleet.pods[doomed].process.exitcode == -9, point
            members = [other, spare] if victim == "b" else [spare, other]
            newest = fleet.publish(members, lost=[doomed])
            fleet.wait_round(newest.round, members)
            assert fleet.pods[members[0]].status.acknowledged.source == "checkpoint", point
        stop(fleet, members)
        position = 0
        for first, batch in fleet.samples_of_steps():
            assert first == position
            position = first + batch


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, marks=[] if point == "exchange" else pytest.mark.matrix)
        for point in ("greet", "open", "exchange")
    ],
)
def test_a_leaver_killed_before_it_handed_over_is_a_loss_like_any_other(tmp_path, point):
    job = long_job(checkpoint={"path": "checkpoints", "everySeconds": 0})
    with Fleet(tmp_path, job) as fleet:
        fleet.start("a")
        fleet.start("b", kill_at=(2, point))
        fleet.publish(["a", "b"])
        fleet.wait(lambda: (tmp_path / "checkpoints" / "latest").exists(), "a checkpoint")
        fleet.publish(["a"], leaving=["b"])
        fleet.pods["b"].process.join(60)
        assert fleet.pods["b"].process.exitcode == -9
        newest = fleet.publish(["a"], lost=["b"])
        fleet.wait_round(newest.round, ["a"])
        stop(fleet, ["a"])


def test_a_newer_round_in_the_middle_wins_and_rounds_may_be_skipped(tmp_path):
    with Fleet(tmp_path, long_job(samples=800)) as fleet:
        fleet.start("a", "b", "c")
        fleet.publish(["a"])
        fleet.wait_steps(2)
        # Round 2 waits for c, which never hears of it; round 5 names only those who are there.
        fleet.publish(["a", "c"], to=["a"])
        fleet.wait(
            lambda: (s := fleet.pods["a"].status) is not None and s.round == 1, "a is in round 1"
        )
        fleet.publish(["a", "b"], lost=["c"], to=["a", "b"], skip=2)
        fleet.wait_round(5, ["a", "b"])
        # Two changes at once: b joins the leavers, c comes, a changes its rank.
        newest = fleet.publish(["c", "a"], leaving=["b"], skip=3)
        fleet.wait_round(newest.round, ["a", "c"])
        fleet.wait_end("b", "a", "c")

        assert not [row for row in fleet.rows() if row.get("discarded")]
        assert_every_sample_once(fleet)


def test_suspension_saves_and_a_later_start_goes_on_at_the_same_sample(tmp_path):
    job = long_job(samples=240)
    with Fleet(tmp_path, job) as fleet:
        fleet.start("a", "b")
        fleet.publish(["a", "b"])
        fleet.wait_steps(3)
        fleet.publish([], leaving=["a", "b"], intent=Intent.SUSPEND)
        fleet.wait_end("a", "b")
        assert fleet.pods["a"].status.phase is PodPhase.LEFT
        saved = fleet.pods["a"].status.checkpoint
        assert saved is not None
        assert saved.samples == fleet.steps()[-1]["samples"]
        fleet.start("c")
        fleet.publish(["c"])
        fleet.wait_end("c")

        assert fleet.pods["c"].status.finished
        assert_every_sample_once(fleet)


def test_an_excluded_worker_ends_and_does_not_move_the_newest_checkpoint(tmp_path):
    job = long_job(checkpoint={"path": "checkpoints", "everySeconds": 0})
    with Fleet(tmp_path, job) as fleet:
        fleet.start("a", "b")
        fleet.publish(["b", "a"])
        latest = tmp_path / "checkpoints" / "latest"
        fleet.wait(latest.exists, "a checkpoint of round 1")
        # b leads; to it the next membership comes first, so whatever it saves now is too late.
        newest = fleet.publish(["a"], lost=["b"], to=["b"])
        fleet.wait_end("b", code=3)
        named = latest.read_text()
        put(fleet.pods["a"].mailbox / "membership.json", newest)
        fleet.wait_round(newest.round, ["a"])
        assert fleet.pods["a"].status.acknowledged.source == "checkpoint"
        assert named == latest.read_text() or f"-r{newest.round}-" in latest.read_text()
        stop(fleet, ["a"])


def test_a_member_killed_in_a_step_does_not_hang_the_others(tmp_path):
    job = long_job(checkpoint={"path": "checkpoints", "everySeconds": 0})
    with Fleet(tmp_path, job) as fleet:
        fleet.start("a", "b", "c", "d")
        fleet.publish(["a", "b", "c", "d"])
        fleet.wait(lambda: (tmp_path / "checkpoints" / "latest").exists(), "a checkpoint")
        pids = {name: fleet.pods[name].status.pid for name in "acd"}
        fleet.kill("b")
        newest = fleet.publish(["a", "c", "d"], lost=["b"])
        fleet.wait_round(newest.round, ["a", "c", "d"])

        assert {name: fleet.pods[name].status.pid for name in "acd"} == pids
        assert fleet.pods["a"].status.acknowledged.source == "checkpoint"
        stop(fleet, ["a", "c", "d"])


@pytest.mark.matrix
@pytest.mark.parametrize("seed", range(50))
def test_fifty_seeded_instants_of_death(tmp_path, seed):
    generator = random.Random(seed)
    job = long_job(samples=400, checkpoint={"path": "checkpoints", "everySeconds": 0})
    with Fleet(tmp_path, job) as fleet:
        fleet.start("a", "b", "c")
        fleet.publish(["a", "b"])
        fleet.wait(lambda: (tmp_path / "checkpoints" / "latest").exists(), "a checkpoint")
        victim = generator.choice(["a", "b", "c"])
        leavers = generator.choice([[], ["a"]])
        members = [name for name in ("a", "b", "c") if name not in leavers]
        fleet.publish(members, leaving=leavers)
        instant = time.monotonic() + generator.random() * 0.4
        while time.monotonic() < instant:
            pass  # the instant itself is what is tested
        if fleet.pods[victim].process.is_alive():
            fleet.kill(victim)
        members = [name for name in members if name != victim]
        settle(fleet, members, [name for name in leavers if name != victim])
        fleet.wait_end(*members)
        assert_every_sample_once(fleet)


def settle(fleet, members, leavers):
    """Publish until the members train without waiting for a leaver that has ended."""
    newest = fleet.publish(members, leaving=leavers)

    def arrived():
        statuses = [fleet.pods[name].status for name in members]
        return all(s.round == newest.round and s.phase is not PodPhase.WAITING for s in statuses)

    def ended():
        return any(not fleet.pods[name].process.is_alive() for name in leavers)

    fleet.wait(lambda: arrived() or ended(), "the members train, or a leaver has ended")
    if not arrived():
        fleet.wait_round(fleet.publish(members).round, members)


def test_a_step_that_is_abandoned_for_the_only_pod_is_saved_before_it(tmp_path):
    # Three slots of a second each, and a notice that leaves two seconds: the step cannot end.
    job = long_job(
        samples=36,
        config={"step_seconds": 1.0},
        batch={"microBatchSize": 2, "initial": 6, "max": 6, "rule": {"name": "Fixed"}},
    )
    with Fleet(tmp_path, job) as fleet:
        fleet.start("a")
        fleet.publish(["a"])
        fleet.wait_steps(2)
        fleet.notice("a", seconds=2.0)
        fleet.publish([], leaving=["a"])
        fleet.wait_end("a")
        status = fleet.pods["a"].status
        assert status.recomputed_micro_batches > 0
        assert status.checkpoint.samples == fleet.steps()[-1]["samples"]
        fleet.start("b")
        fleet.publish(["b"])
        fleet.wait_end("b")

        assert_every_sample_once(fleet)


def test_a_last_checkpoint_that_cannot_be_written_is_a_failure(tmp_path):
    with Fleet(tmp_path, long_job(samples=80)) as fleet:
        fleet.start("a")
        fleet.publish(["a"])
        fleet.wait_steps(1)
        (tmp_path / "checkpoints").write_text("a file where the folder should be")
        fleet.wait_end("a", code=1)

        assert (
            "the last checkpoint (step 10) is not saved" in fleet.pods["a"].status.failure.message
        )


def test_a_leaver_of_a_first_round_is_free_and_members_start_from_the_seed(tmp_path):
    with Fleet(tmp_path, long_job(samples=40)) as fleet:
        fleet.start("a", "b", "c")
        fleet.publish(["a", "b"], leaving=["c"])
        fleet.wait_end("c", "a", "b")

        assert fleet.pods["c"].status.phase is PodPhase.LEFT
        assert_every_sample_once(fleet)


def test_a_round_that_loses_and_drains_at_once_starts_from_the_checkpoint(tmp_path):
    job = long_job(checkpoint={"path": "checkpoints", "everySeconds": 0})
    with Fleet(tmp_path, job) as fleet:
        fleet.start("a", "b", "c", "d")
        fleet.publish(["a", "b", "c"])
        fleet.wait(lambda: (tmp_path / "checkpoints" / "latest").exists(), "a checkpoint")
        fleet.kill("b")
        newest = fleet.publish(["d", "a"], leaving=["c"], lost=["b"])
        fleet.wait_end("c")
        fleet.wait_round(newest.round, ["a", "d"])

        assert fleet.pods["d"].status.acknowledged.source == "checkpoint"
        stop(fleet, ["d", "a"])
