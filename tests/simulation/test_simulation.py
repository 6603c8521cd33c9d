"""Random schedules of the planner and the membership protocol keep every promise.

A failure names its seed: `python -m tests.simulation --seed N --trace` tells what happened.
"""

import subprocess
import sys

import pytest
import torch

from tests.simulation.__main__ import outcomes, summary
from tests.simulation.history import Counts
from tests.simulation.planted import BUGS, planted
from tests.simulation.world import run_schedule

SCHEDULES_TO_FIND_A_BUG = 200


def check(seeds: range, *, processes: int) -> Counts:
    """Runs the schedules and says what they covered."""
    counts, broken, events, seconds = Counts(), [], 0, 0.0
    for outcome in outcomes(seeds, processes=processes):
        counts.add(outcome.counts)
        events, seconds = events + outcome.events, seconds + outcome.seconds
        if outcome.violation:
            broken.append(f"seed {outcome.seed}: {outcome.violation}")
    print(f"{len(seeds)} schedules\n{summary(counts, events=events, seconds=seconds)}")
    assert not broken, "\n".join(broken[:10])
    return counts


def test_no_schedule_breaks_a_promise():
    counts = check(range(150), processes=1)

    assert counts.losses
    assert counts.steps_lost
    assert {"memory", "snapshot", "checkpoint", "seed"} <= set(counts.sources)


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(20650, id="an excluded worker thaws within a step that the others have done"),
        pytest.param(20281, id="a save that lacks the parts of others"),
        pytest.param(20995, id="two losses while the first snapshot of a round is on its way"),
        pytest.param(22461, id="an operator thaws after another has led"),
        pytest.param(27419, id="a word of a commit that comes when a later round has gone on"),
        pytest.param(41426, id="a request of trainers that ended while the API was away"),
        pytest.param(46736, id="a request that a new round repeats before anybody has read it"),
        pytest.param(
            66177, id="rank 0 is lost before it has made the last checkpoint of all parts"
        ),
        pytest.param(67262, id="pods that have ended well before their reports are read"),
        pytest.param(81479, id="a pod that leaves at the end, with one part of the last state"),
        pytest.param(82585, id="a pod that has left ends with 0, and its round is deleted"),
        pytest.param(101310, id="the report of a pod that failed goes before the pod"),
        pytest.param(67639, id="max is lowered when a pod that was planned is created"),
        pytest.param(22685, id="a loss after resizes that no snapshot has outlasted"),
        pytest.param(84, id="a pod whose creation was not answered, seen after what it replaces"),
    ],
)
def test_a_schedule_that_broke_a_promise_once_does_so_no_more(seed):
    assert not run_schedule(seed).violation
    assert torch.is_grad_enabled()  # as before


@pytest.mark.matrix
@pytest.mark.timeout(7200)
def test_ten_thousand_schedules_break_no_promise():
    check(range(1_000, 11_000), processes=2)


def test_a_seed_gives_the_same_schedule_in_any_process():
    command = [sys.executable, "-m", "tests.simulation", "--seed", "3", "--trace"]

    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        for _ in range(2)
    )

    assert len(first) > 50
    assert first[:-1] == second[:-1]  # the last line tells the time that it took


@pytest.mark.parametrize("bug", [pytest.param(bug, id=bug.name) for bug in BUGS])
def test_a_planted_bug_is_found(bug):
    with planted(bug):
        found = any(
            run_schedule(seed, faults=bug.faults).violation
            for seed in range(SCHEDULES_TO_FIND_A_BUG)
        )

    assert found, f"{SCHEDULES_TO_FIND_A_BUG} schedules did not show it"
