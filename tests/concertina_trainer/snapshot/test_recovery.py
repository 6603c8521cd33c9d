"""Losses that are made good from neighbours' memory, with real workers that are killed."""

import os
import signal
from pathlib import Path

import pytest

from concertina_api.v1alpha1 import Intent, PodPhase
from concertina_trainer.checkpoint.reader import find
from concertina_trainer.rounds.phases import LAST_SAVE, POINTS, SNAPSHOT_POINTS
from tests.fleet import Fleet
from tests.tasks import job_document


def long_job(samples=100_000, **changes):
    # No checkpoint is saved: whoever goes on at a step above 0 has its state from memory.
    return job_document(**{"samples": samples, "snapshots": {"everySteps": 2}, **changes})


def lose(fleet, lost, survivors, **changes):
    """Kill some workers and publish the round without them; the acknowledged resize."""
    for name in lost:
        fleet.kill(name)
    newest = fleet.publish(survivors, lost=lost, **changes)
    fleet.wait_round(newest.round, survivors)
    return fleet.pods[survivors[0]].status.acknowledged


def wait_snapshot(fleet, leader, *, after=0):
    """Wait until all workers hold a snapshot that is newer than a step."""

    def complete():
        status = fleet.pods[leader].status
        return status.snapshot is not None and (status.snapshot.step or 0) > after

    fleet.wait(complete, f"a snapshot after step {after}")


def is_stopped(pid):
    return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] == "T"


def stop(fleet, members):
    fleet.publish([], leaving=members, intent=Intent.STOP)
    fleet.wait_end(*members)
    position = 0
    for first, batch in fleet.samples_of_steps():
        assert first == position
        position = first + batch


@pytest.mark.parametrize(
    "victim", [pytest.param("a", id="rank 0"), pytest.param("c", id="another rank")]
)
def test_a_lost_worker_costs_few_steps_and_no_process(tmp_path, victim):
    with Fleet(tmp_path, long_job()) as fleet:
        fleet.start("a", "b", "c", "d")
        fleet.publish(["a", "b", "c", "d"])
        wait_snapshot(fleet, "a", after=4)
        survivors = [name for name in "abcd" if name != victim]
        pids = {name: fleet.pods[name].status.pid for name in survivors}
        resize = lose(fleet, [victim], survivors)

        assert resize.source == "snapshot"
        assert resize.lost == 1
        assert resize.world_size_before == 4
        assert resize.step > 0
        assert resize.steps_lost <= 8
        assert resize.detection_seconds is not None
        assert {name: fleet.pods[name].status.pid for name in survivors} == pids
        stop(fleet, survivors)


def test_several_that_are_no_neighbours_are_made_good_at_once(tmp_path):
    with Fleet(tmp_path, long_job()) as fleet:
        fleet.start("a", "b", "c", "d")
        fleet.publish(["a", "b", "c", "d"])
        wait_snapshot(fleet, "a", after=2)
        resize = lose(fleet, ["a", "c"], ["b", "d"])

        assert (resize.source, resize.lost) == ("snapshot", 2)
        stop(fleet, ["b", "d"])


def test_two_neighbours_are_more_than_the_ring_covers(tmp_path):
    job = long_job(checkpoint={"path": "checkpoints", "everySeconds": 0})
    with Fleet(tmp_path, job) as fleet:
        fleet.start("a", "b", "c", "d")
        fleet.publish(["a", "b", "c", "d"])
        fleet.wait(lambda: (tmp_path / "checkpoints" / "latest").exists(), "a checkpoint")
        wait_snapshot(fleet, "a", after=2)
        resize = lose(fleet, ["b", "c"], ["a", "d"])

        assert (resize.source, resize.lost) == ("checkpoint", 2)
        stop(fleet, ["a", "d"])


def checkpoint_steps(folder):
    """Steps of the checkpoints that are complete, in order."""
    return sorted(
        int(manifest.parent.name.split("-")[1])
        for manifest in (folder / "checkpoints").glob("step-*/manifest.json")
    )


@pytest.mark.parametrize(
    ("members", "leaving"),
    [
        pytest.param(["a", "c"], [], id="loss"),
        pytest.param(["d", "a"], ["c"], id="loss and drain at once"),
    ],
)
def test_a_checkpoint_that_is_ahead_goes_before_an_old_snapshot(tmp_path, members, leaving):
    job = long_job(
        snapshots={"everySteps": 10**6}, checkpoint={"path": "checkpoints", "everySeconds": 0}
    )
    with Fleet(tmp_path, job) as fleet:
        fleet.start("a", "b", "c", "d")
        fleet.publish(["a", "b", "c"])
        fleet.wait(lambda: max(checkpoint_steps(tmp_path), default=0) > 5, "a late checkpoint")
        assert (fleet.pods["a"].status.snapshot.step or 0) < 5
        durable = checkpoint_steps(tmp_path)[-1]
        resize = lose(fleet, ["b"], members, leaving=leaving)
        fleet.wait_end(*leaving)

        assert resize.source == "checkpoint"
        assert resize.step >= durable
        assert resize.lost == 1
        stop(fleet, members)


def test_one_loss_after_another_down_to_the_last_worker(tmp_path):
    with Fleet(tmp_path, long_job()) as fleet:
        fleet.start("a", "b", "c")
        fleet.publish(["a", "b", "c"])
        wait_snapshot(fleet, "a", after=2)
        first = lose(fleet, ["a"], ["b", "c"])
        wait_snapshot(fleet, "b", after=first.step + 1)
        second = lose(fleet, ["c"], ["b"])

        assert (first.source, second.source) == ("snapshot", "snapshot")
        assert second.step > first.step > 0
        status = fleet.pods["b"].status
        assert status.recoveries == {"snapshot": 2}
        assert status.steps_lost == first.steps_lost + second.steps_lost
        fleet.wait(lambda: fleet.pods["b"].status.snapshot.off != "", "none are taken alone")
        stop(fleet, ["b"])


@pytest.mark.parametrize(
    ("victim", "point"),
    [
        *(pytest.param("c", point, id=f"another rank, {point}") for point in SNAPSHOT_POINTS),
        *(
            pytest.param(
                "a",
                point,
                id=f"rank 0, {point}",
                marks=[] if point == "complete" else pytest.mark.matrix,
            )
            for point in SNAPSHOT_POINTS
        ),
    ],
)
def test_a_worker_killed_at_any_point_of_a_snapshot_costs_no_checkpoint(tmp_path, victim, point):
    names, survivors = ["a", "b", "c"], [name for name in "abc" if name != victim]
    with Fleet(tmp_path, long_job()) as fleet:
        fleet.start(*survivors)
        # Its third one: two were complete before, or one while the second was on its way.
        fleet.start(victim, kill_at=(3, point))
        fleet.publish(names)
        fleet.pods[victim].process.join(60)
        assert fleet.pods[victim].process.exitcode == -9
        newest = fleet.publish(survivors, lost=[victim])
        fleet.wait_round(newest.round, survivors)
        resize = fleet.pods[survivors[0]].status.acknowledged

        assert resize.source == "snapshot"
        assert resize.step > 0
        stop(fleet, survivors)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, marks=[] if point in ("exchange", "commit") else pytest.mark.matrix)
        for point in POINTS
    ],
)
def test_a_holder_killed_at_any_point_of_a_resize_costs_no_checkpoint(tmp_path, point):
    with Fleet(tmp_path, long_job()) as fleet:
        fleet.start("a", "b", "joiner")
        fleet.start("doomed", kill_at=(2, point))
        fleet.publish(["a", "doomed", "b"])
        wait_snapshot(fleet, "a", after=2)
        fleet.publish(["a", "doomed", "b", "joiner"])
        fleet.pods["doomed"].process.join(60)
        assert fleet.pods["doomed"].process.exitcode == -9
        newest = fleet.publish(["a", "b", "joiner"], lost=["doomed"])
        fleet.wait_round(newest.round, ["a", "b", "joiner"])
        resize = fleet.pods["a"].status.acknowledged

        assert resize.source == "snapshot"
        assert resize.step > 0
        stop(fleet, ["a", "b", "joiner"])


def test_a_second_loss_during_a_recovery_costs_no_checkpoint(tmp_path):
    with Fleet(tmp_path, long_job()) as fleet:
        fleet.start("a", "b", "d")
        fleet.start("c", kill_at=(2, "exchange"))
        fleet.publish(["a", "b", "c", "d"])
        wait_snapshot(fleet, "a", after=2)
        fleet.kill("a")
        fleet.publish(["b", "c", "d"], lost=["a"])
        fleet.pods["c"].process.join(60)
        newest = fleet.publish(["b", "d"], lost=["a", "c"])
        fleet.wait_round(newest.round, ["b", "d"])
        resize = fleet.pods["b"].status.acknowledged

        assert (resize.source, resize.lost) == ("snapshot", 2)
        stop(fleet, ["b", "d"])


def test_a_loss_while_parameters_change_leads_back_to_the_snapshot(tmp_path):
    job = long_job(model="tests.concertina_trainer.snapshot.dying:DyingTask")
    with Fleet(tmp_path, job) as fleet:
        fleet.start("a", "b", "c")
        fleet.publish(["a", "b", "c"])
        fleet.pods["b"].process.join(60)
        assert fleet.pods["b"].process.exitcode == -9
        newest = fleet.publish(["a", "c"], lost=["b"])
        fleet.wait_round(newest.round, ["a", "c"])
        resize = fleet.pods["a"].status.acknowledged

        # The half changed parameters of step 7 are no state; those of step 6 are gone with it.
        assert resize.source == "snapshot"
        assert 0 < resize.step < 7
        assert resize.step + resize.steps_lost == 6
        stop(fleet, ["a", "c"])


@pytest.mark.parametrize(
    "victim", [pytest.param("a", id="rank 0"), pytest.param("b", id="another rank")]
)
def test_a_loss_before_the_last_checkpoint_is_whole_costs_steps_and_no_state(tmp_path, victim):
    names, survivors = ["a", "b", "c"], [name for name in "abc" if name != victim]
    with Fleet(tmp_path, long_job(samples=160)) as fleet:
        for name in names:
            fleet.start(name, **({"kill_at": (1, LAST_SAVE)} if name == victim else {}))
        fleet.publish(names)
        fleet.pods[victim].process.join(60)
        assert fleet.pods[victim].process.exitcode == -9
        fleet.publish(survivors, lost=[victim])
        fleet.wait_end(*survivors)

        assert all(fleet.pods[name].status.finished for name in survivors)
        resize = fleet.pods[survivors[0]].status.acknowledged
        assert (resize.source, resize.lost) == ("snapshot", 1)
        assert resize.step > 0
        last = fleet.samples_of_steps()[-1]
    checkpoint = find(tmp_path / "checkpoints", job="tiny")
    assert checkpoint.manifest.identity.samples == sum(last) == 160


def test_a_round_that_begins_before_the_last_checkpoint_is_whole_saves_it(tmp_path):
    with Fleet(tmp_path, long_job(samples=160)) as fleet:
        fleet.start("a", "joiner")
        fleet.start("b", kill_at=(1, LAST_SAVE), by=signal.SIGSTOP)
        fleet.publish(["a", "b"])
        stopped = fleet.pods["b"].process.pid
        fleet.wait(lambda: is_stopped(stopped), "b stops before its last save")
        fleet.publish(["a", "b", "joiner"])
        fleet.wait_phase(["a"], PodPhase.WAITING)
        os.kill(stopped, signal.SIGCONT)
        fleet.wait_end("a", "b", "joiner")

    checkpoint = find(tmp_path / "checkpoints", job="tiny")
    assert checkpoint.manifest.identity.samples == 160
    assert checkpoint.manifest.identity.world_size == 3
