"""Jobs whose minimum together is more than there is: the real scheduler places their pods."""

import time
from dataclasses import dataclass, field

import pytest

from tests.cluster.api import wait_for
from tests.cluster.fake_nodes import fake_nodes
from tests.concertina_operator.cluster.trainers import Trainers, a_trained_job

NUM_JOBS = 10
NUM_GPUS = 16
MIN, MAX = 3, 6
READY_SECONDS = 2
SLACK_SECONDS = 5.0
"""For the operator to act and for the test to look."""


@pytest.fixture
def gpus(api):
    """The label by which pods find the GPUs of this test."""
    with fake_nodes(api, 2, gpus=NUM_GPUS // 2, prefix="scarce") as names:
        for name in names:
            api.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": {"gpus": "scarce"}}})
        yield {"gpus": "scarce"}


def a_greedy_job(name, *, node_selector):
    """A job that cannot run below its minimum, and asks for its maximum."""
    limits = {"limits": {"nvidia.com/gpu": 1}}
    container = {"name": "trainer", "image": "x", "resources": limits}
    template = {"spec": {"nodeSelector": node_selector, "containers": [container]}}
    return a_trained_job(
        name,
        pods={"min": MIN, "max": MAX, "template": template},
        scaling={
            "readyDeadlineSeconds": READY_SECONDS,
            "scaleUpCooldownSeconds": 0,
            "scaleDownCooldownSeconds": 0,
        },
    )


@dataclass(kw_only=True)
class Hoard:
    """How long a job has held GPUs on which it could not train."""

    since: float | None = None
    longest: float = 0.0

    def look(self, trainers):
        holds = any(pod.phase is not None and pod.runs for pod in trainers.imagined.pods.values())
        now = time.monotonic()
        if not holds or len(trainers.imagined.members) >= MIN:
            self.since = None
        elif self.since is None:
            self.since = now
        else:
            self.longest = max(self.longest, now - self.since)


@dataclass(kw_only=True)
class Run:
    """One job on its way to its end."""

    trainers: Trainers
    hoard: Hoard = field(default_factory=Hoard)
    is_done: bool = False

    def turn(self, *, may_finish):
        """Trains as far as there are pods; whether the job has completed."""
        if self.is_done:
            return True
        crew = self.trainers
        crew.turn()
        self.hoard.look(crew)
        if crew.imagined.trains and not crew.imagined.sequence:
            crew.imagined.ask(8 * 4 * MAX)
        if may_finish and crew.imagined.trains:
            crew.imagined.finish()
        self.is_done = crew.holds("Completed")
        return self.is_done


def test_ten_jobs_on_sixteen_gpus_all_finish_and_none_hoards_what_it_cannot_use(crew, gpus):
    assert NUM_JOBS * MIN > NUM_GPUS
    runs = [Run(trainers=crew(f"-{number}")) for number in range(NUM_JOBS)]
    for run in runs:
        run.trainers.create(a_greedy_job(run.trainers.job, node_selector=gpus))

    def states():
        return [run.trainers.status().get("state") for run in runs]

    def turn_all(*, may_finish):
        done = [run.turn(may_finish=may_finish) for run in runs]
        return all(done)

    # Nobody finishes before somebody has given up what it could get.
    wait_for(lambda: turn_all(may_finish=False) or "BackingOff" in states(), lambda: f"{states()}")
    wait_for(lambda: turn_all(may_finish=True), lambda: f"{states()}", 240)

    events = [event for run in runs for event in run.trainers.events()]
    assert "PodsReleased" in events, "nobody was short of pods"
    assert max(run.hoard.longest for run in runs) < READY_SECONDS + SLACK_SECONDS
    for run in runs:
        assert run.trainers.status()["failures"]["count"] == 0
        phases = [pod["status"]["phase"] for pod in run.trainers.pods().values()]
        assert "Running" not in phases
