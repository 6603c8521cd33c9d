"""Who falls silent, one after the other in one run: a pod for a moment, a worker, rank 0's pod.

At last a pod dies while there is no operator. Nobody's connections are closed by a stop, so nothing
of it is seen but by those who ask.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from concertina_api.v1alpha1 import FailureCause, Membership, PodPhase, Report
from tests.e2e.records import samples_in_order
from tests.e2e.runs import LocalRun, processes_of, started
from tests.tasks import job_document


@dataclass
class Silence:
    """What was seen while the run was alive."""

    run: LocalRun
    seconds: dict[str, float] = field(default_factory=dict)
    """From the signal to the membership that answers it."""
    rounds: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The round before and after."""
    lost: dict[str, list[str]] = field(default_factory=dict)
    stayed: dict[str, bool] = field(default_factory=dict)
    """Whether the workers that were to stay are the same processes afterwards."""
    failure_of_stopped_worker: Report | None = None
    held: Report | None = None
    """The survivor's report while there was no operator."""
    steps_without_operator: int = -1


def document(folder: Path) -> dict[str, Any]:
    return job_document(
        model="tests.e2e.tasks:UntilTold",
        config={"folder": str(folder), "step_seconds": 0.05},
        samples=10**6,
        batch={"microBatchSize": 2, "initial": 4, "max": 4, "rule": {"name": "Fixed"}},
        pods={"min": 2, "max": 2},
        scaling={"scaleUpCooldownSeconds": 0},
        checkpoint={"path": "checkpoints", "everySeconds": 1},
    )


@pytest.fixture(scope="module")
def silence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Silence]:
    folder = tmp_path_factory.mktemp("silence")
    with started(folder / "run", document(folder)) as run:
        seen = Silence(run)
        run.wait_steps(5, workers=2)
        _stop_a_pod_for_a_moment(seen)
        _stop_a_worker(seen)
        _stop_the_pod_of_rank_0(seen)
        _lose_a_pod_without_operator(seen)
        (folder / "stop").touch()
        assert run.end() == 0
        yield seen


def _stop_a_pod_for_a_moment(seen: Silence) -> None:
    run, before = seen.run, newest(seen.run)
    pids = {pod: status.pid for pod, status in run.workers().items()}
    follower = next(pod for pod in pids if pod != run.leader())
    stopped = processes_of(run.folder, pod=follower)
    send(stopped, signal.SIGSTOP)
    begun = time.monotonic()
    run.wait(lambda: newest(run).probe > before.probe, "a probe")
    send(stopped, signal.SIGCONT)
    seen.seconds["probe"] = time.monotonic() - begun
    run.wait(lambda: not run.report(run.leader()).suspects, "nobody is suspected any more")
    run.wait_steps(3, workers=2, after=time.time())
    seen.rounds["moment"] = before.round, newest(run).round
    seen.stayed["moment"] = pids == {pod: status.pid for pod, status in run.workers().items()}


def _stop_a_worker(seen: Silence) -> None:
    leader = seen.run.leader()
    follower = next(pod for pod in seen.run.workers() if pod != leader)
    stopped = seen.run.worker(follower)
    _answered(seen, "worker", [stopped.pid], signal.SIGSTOP, stays=leader)
    seen.failure_of_stopped_worker = seen.run.report(follower)


def _stop_the_pod_of_rank_0(seen: Silence) -> None:
    leader = seen.run.leader()
    follower = next(pod for pod in seen.run.workers() if pod != leader)
    stopped = processes_of(seen.run.folder, pod=leader)
    _answered(seen, "pod of rank 0", stopped, signal.SIGSTOP, stays=follower)


def _lose_a_pod_without_operator(seen: Silence) -> None:
    run = seen.run
    leader = run.leader()
    follower = next(pod for pod in run.workers() if pod != leader)
    run.process.send_signal(signal.SIGSTOP)
    try:
        send(processes_of(run.folder, pod=follower), signal.SIGKILL)
        seen.held = run.wait(
            lambda: r if (r := run.report(leader)).phase is PodPhase.WAITING else None,
            "the survivor holds its state",
        )
        steps = len(run.all_steps())
        # What it waits for cannot come; its agent goes on telling that it is there.
        run.wait(lambda: run.report(leader).suspects == (follower,), "the dead pod is suspected")
        seen.steps_without_operator = len(run.all_steps()) - steps
    finally:
        run.process.send_signal(signal.SIGCONT)
    _answered(seen, "no operator", [], signal.SIGCONT, stays=leader)


def _answered(
    seen: Silence, what: str, pids: list[int], number: signal.Signals, *, stays: str
) -> None:
    """Send a signal, wait for the membership that names the loss and for two to train again."""
    run, before = seen.run, newest(seen.run)
    pid, begun = run.worker(stays).pid, time.monotonic()
    send(pids, number)
    after = run.wait(
        lambda: m if (m := newest(run)).lost and m.round > before.round else None, what
    )
    seen.seconds[what] = time.monotonic() - begun
    seen.rounds[what] = before.round, after.round
    seen.lost[what] = [member.pod for member in after.lost]
    run.wait_steps(3, workers=2, after=time.time())
    seen.stayed[what] = run.worker(stays).pid == pid


def newest(run: LocalRun) -> Membership:
    membership = run.membership()
    assert membership is not None
    return membership


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def test_a_pod_that_answers_the_probe_is_not_excluded(silence: Silence) -> None:
    before, after = silence.rounds["moment"]
    assert after == before
    assert silence.stayed["moment"]


@pytest.mark.parametrize("what", ["worker", "pod of rank 0", "no operator"])
def test_who_stays_goes_on_in_the_same_process(
    silence: Silence, what: str, record_property: Callable[[str, object], None]
) -> None:
    record_property(f"seconds until the loss of {what} is answered", silence.seconds[what])
    assert len(silence.lost[what]) == 1
    assert silence.stayed[what]


def test_a_silent_worker_is_killed_by_its_agent_and_nobody_is_blamed(silence: Silence) -> None:
    report = silence.failure_of_stopped_worker
    assert report is not None
    assert report.failure is not None
    assert report.failure.cause is FailureCause.INFRASTRUCTURE
    assert "no sign of life" in report.failure.message


def test_survivors_hold_until_the_operator_returns(silence: Silence) -> None:
    assert silence.held is not None
    assert silence.steps_without_operator == 0


def test_each_sample_counts_exactly_once(silence: Silence) -> None:
    steps = silence.run.steps()
    assert samples_in_order(steps)
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))


def test_the_newest_checkpoint_is_of_the_last_step(silence: Silence) -> None:
    checkpoints = silence.run.folder / "checkpoints"
    latest = (checkpoints / "latest").read_text().strip()
    manifest = json.loads((checkpoints / latest / "manifest.json").read_bytes())
    assert manifest["identity"]["step"] == silence.run.steps()[-1]["step"]
