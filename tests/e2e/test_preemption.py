"""SIGTERM to several pods at once, whoever they are: their shards stay, and no step is lost."""

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.records import samples_in_order
from tests.e2e.runs import LocalRun, started
from tests.tasks import job_document, long_steps

PODS = ("tiny-0", "tiny-1", "tiny-2")


def document(
    folder: Path,
    *,
    pods: int = len(PODS),
    micro_batches: int = 2,
    micro_batch_seconds: float = 0.05,
) -> dict[str, Any]:
    """Pods with so many micro-batches of a step each, which train until they are told to stop."""
    return job_document(
        model="tests.e2e.tasks:UntilTold",
        config={"folder": str(folder), "step_seconds": micro_batch_seconds},
        samples=10**6,
        batch=long_steps(pods=pods, micro_batches=micro_batches),
        pods={"min": 1, "max": pods},
        checkpoint={"path": "checkpoints", "everySeconds": None},
    )


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("grace_seconds", "leavers"),
    [
        pytest.param(5, ("tiny-1",), id="one, 5 s"),
        pytest.param(5, ("tiny-0", "tiny-2"), id="rank 0 and another, 5 s"),
        pytest.param(30, ("tiny-0",), id="rank 0, 30 s"),
        pytest.param(30, ("tiny-1", "tiny-2"), id="two, 30 s"),
    ],
)
def test_pods_that_are_told_to_end_hand_over_and_are_replaced(
    tmp_path: Path, grace_seconds: int, leavers: tuple[str, ...]
) -> None:
    with started(tmp_path / "run", document(tmp_path), grace_seconds=grace_seconds) as run:
        run.wait_steps(3, workers=len(PODS))
        gone = _tell_to_leave(run, leavers)
        _train_without(run, gone, pods=len(PODS))
        _finish(run, tmp_path)
        for pod in leavers:
            assert "after SIGKILL" not in run.log(pod)


@pytest.mark.parametrize(
    ("grace_seconds", "pods"),
    [
        pytest.param(5, PODS[:2], id="two, 5 s"),
        pytest.param(30, PODS, id="three, 30 s", marks=pytest.mark.matrix),
    ],
)
def test_when_all_are_told_at_once_they_save_and_others_go_on_from_there(
    tmp_path: Path, grace_seconds: int, pods: tuple[str, ...]
) -> None:
    job = document(tmp_path, pods=len(pods))
    with started(tmp_path / "run", job, grace_seconds=grace_seconds) as run:
        run.wait_steps(3, workers=len(pods))
        gone = _tell_to_leave(run, pods)
        _train_without(run, gone, pods=len(pods))
        _finish(run, tmp_path)
        assert "starting from checkpoint step-" in run.account()


@pytest.mark.matrix
def test_a_step_longer_than_the_grace_of_several_is_dropped_and_run_again(tmp_path: Path) -> None:
    # A notice counts from the second micro-batch after it on: these are short.
    slow = document(tmp_path, micro_batches=14, micro_batch_seconds=0.5)
    with started(tmp_path / "run", slow, grace_seconds=5) as run:
        run.wait_steps(1, workers=len(PODS))
        gone = _tell_to_leave(run, PODS[:2])
        _train_without(run, gone)
        _finish(run, tmp_path)
        assert "step abandoned after" in run.account()


def _tell_to_leave(run: LocalRun, pods: Iterable[str]) -> set[str]:
    """SIGTERM to all of them; their uids."""
    membership = run.membership()
    assert membership is not None
    told = {member.uid for member in membership.members if member.pod in set(pods)}
    for agent in [run.agent(pod) for pod in pods]:
        os.kill(agent, signal.SIGTERM)
    return told


def _train_without(run: LocalRun, gone: set[str], *, pods: int | None = None) -> None:
    """Wait for a few steps by so many pods, or any number, none of which was told to leave."""

    def entered() -> int | None:
        membership = run.membership()
        assert membership is not None
        members = {member.uid for member in membership.members}
        is_new = members and pods in (None, len(members)) and not members & gone
        return membership.round if is_new else None

    number = run.wait(entered, "a round of others")
    run.wait_steps(2, workers=pods, after=run.wait_round(number)["time"])


def _finish(run: LocalRun, folder: Path) -> None:
    """The run ends well, and every sample was trained on exactly once."""
    (folder / "stop").touch()
    assert run.end() == 0, run.account()
    assert run.discarded() == [], run.account()
    assert samples_in_order(run.steps())
