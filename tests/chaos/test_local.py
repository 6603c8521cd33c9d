"""A short fixed set of broken local runs; `make chaos` draws hundreds."""

import os

import pytest

from tests.chaos.clock import NoFakeClock
from tests.chaos.local_runs import LocalRuns
from tests.chaos.schedule import Fault, Strike
from tests.cluster.fixtures import required_or_skipped

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return LocalRuns(tmp_path_factory.mktemp("chaos"))


def at(samples: int, fault: Fault, *, target: float = 0.0, seconds: float = 0.0) -> Strike:
    return Strike(fault=fault, target=target, seconds=seconds, at_samples=samples)


def then(delay: float, fault: Fault, *, target: float = 0.0, seconds: float = 0.0) -> Strike:
    return Strike(fault=fault, target=target, seconds=seconds, after_seconds=delay)


@pytest.mark.parametrize(
    "strikes",
    [
        pytest.param(
            [
                at(100, Fault.RUBBISH_REPORT, target=0.3),
                at(200, Fault.KILL_LEADER),
                then(0.3, Fault.STOP_POD, target=0.9, seconds=2.0),
                at(500, Fault.KILL_OPERATOR, seconds=0.5),
                then(1.0, Fault.KILL_WORKER, target=0.9),
                at(650, Fault.LEAVE),
            ],
            id="a report, rank 0, the command, a worker, one that is silent, one that leaves",
        ),
        pytest.param(
            [
                at(200, Fault.RUBBISH_MEMBERSHIP, target=0.5),
                then(0.5, Fault.KILL_AGENT, target=0.9),
                at(500, Fault.KILL_POD),
                then(1.0, Fault.DELETE_MEMBERSHIP),
                at(650, Fault.SLOW_WORKER, target=0.5, seconds=2.0),
            ],
            id="memberships, an agent, a pod, and a slow worker",
            marks=pytest.mark.matrix,
        ),
    ],
)
def test_whatever_ends_the_invariants_hold(runs, strikes, tmp_path):
    judged = runs(tmp_path / "run", strikes)
    assert judged.violations == [], judged.row()
    assert [hit.strike for hit in judged.hits if not hit.missed] == strikes, judged.row()


@pytest.mark.matrix
def test_whatever_becomes_of_disk_and_clock_the_invariants_hold(runs, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("a disk of its own needs root")
    strikes = [
        at(150, Fault.FULL_DISK, seconds=2.0),
        then(1.0, Fault.KILL_WORKER, target=0.9),
        at(350, Fault.CLOCK_STEP, seconds=1.0),
        then(0.5, Fault.SLOW_DISK, seconds=2.0),
        then(1.0, Fault.KILL_LEADER),
    ]
    try:
        judged = runs(tmp_path / "run", strikes)
    except NoFakeClock as missing:
        required_or_skipped(str(missing))
    assert judged.violations == [], judged.row()
    assert [hit.strike for hit in judged.hits if not hit.missed] == strikes, judged.row()
