import os
import signal
import subprocess
import sys

import pytest

from concertina_api.v1alpha1 import Failure, FailureCause
from concertina_trainer.agent.failure import (
    GOOD_STEPS,
    MAX_RESTARTS,
    End,
    culprit,
    ended,
    failure_of,
    last_lines,
    may_restart,
)
from concertina_trainer.agent.mailbox import WorkerStatus
from tests.concertina_trainer.agent.pods import wait_for


def end(code, local_rank=0):
    return End(local_rank=local_rank, code=code)


def status(**fields):
    return WorkerStatus(incarnation="a", local_rank=0, pid=1, **fields)


@pytest.mark.parametrize(
    ("code", "want_cause", "want_message", "want_permanent"),
    [
        pytest.param(1, FailureCause.EXIT_CODE, "exit code 1: ValueError", False, id="exception"),
        pytest.param(2, FailureCause.INVALID_JOB, "exit code 2: ValueError", True, id="mistake"),
        pytest.param(-11, FailureCause.SIGNAL, "killed by SIGSEGV: ValueError", False, id="signal"),
        pytest.param(-9, FailureCause.SIGNAL, "killed by SIGKILL", False, id="signal from outside"),
        pytest.param(-99, FailureCause.SIGNAL, "killed by signal 99: ValueError", False, id="odd"),
    ],
)
def test_the_way_it_ended_is_the_cause(code, want_cause, want_message, want_permanent):
    failure = failure_of(
        [end(code)], statuses={0: status(round=4, rank=3)}, incarnation="a", lines="ValueError"
    )

    assert failure.cause is want_cause
    assert failure.message == want_message
    assert failure.permanent is want_permanent
    assert (failure.round, failure.rank, failure.incarnation) == (4, 3, "a")


def test_a_worker_that_ended_before_it_told_anything_has_no_rank():
    failure = failure_of([end(1)], statuses={}, incarnation="a", lines="")

    assert (failure.round, failure.rank, failure.message) == (0, -1, "exit code 1")


@pytest.mark.parametrize("code", [pytest.param(1, id="other"), pytest.param(2, id="mistake")])
def test_the_account_of_the_worker_itself_is_the_best(code):
    told = Failure(round=4, incarnation="a", cause=FailureCause.NON_FINITE, message="loss is nan")

    failure = failure_of(
        [end(code)], statuses={0: status(failure=told)}, incarnation="a", lines="Traceback"
    )

    assert failure == told.model_copy(update={"permanent": code == 2})


def test_the_end_of_a_long_log_is_kept():
    failure = failure_of([end(1)], statuses={}, incarnation="a", lines="x" * 600 + "end")

    assert len(failure.message) == 512
    assert failure.message.startswith("exit code 1: xxx")
    assert failure.message.endswith("xend")


def test_a_killed_worker_is_the_culprit_and_one_that_ended_well_never():
    assert culprit([end(0, 0), end(1, 1), end(-9, 2)]).local_rank == 2
    assert culprit([end(0, 0), end(1, 1), end(3, 2)]).local_rank == 1


@pytest.mark.parametrize(
    ("failed_steps", "step", "want"),
    [
        pytest.param([], 0, True, id="the first"),
        pytest.param([0] * (MAX_RESTARTS - 1), 5, True, id="the last one allowed"),
        pytest.param([0] * MAX_RESTARTS, 5, False, id="too many"),
        pytest.param([0] * MAX_RESTARTS, GOOD_STEPS, True, id="long ago"),
        pytest.param([GOOD_STEPS] * MAX_RESTARTS, 3, False, id="rolled back"),
    ],
)
def test_restarts_are_counted_over_good_steps(failed_steps, step, want):
    assert may_restart(failed_steps, step=step) is want


def test_ends_are_seen_and_left_for_the_one_who_reaps():
    code = "import os, signal, sys; os.kill(os.getpid(), signal.SIGTERM)"
    children = [
        subprocess.Popen([sys.executable, "-c", text])
        for text in ("", "raise SystemExit(3)", code, "import signal; signal.pause()")
    ]
    pids = {number: child.pid for number, child in enumerate(children)}
    try:
        ends = wait_for(lambda: len(seen := ended(pids)) == 3 and seen, lambda: "three ends")
        assert ends == (end(0, 0), end(3, 1), end(-signal.SIGTERM, 2))
        assert [child.wait() for child in children[:3]] == [0, 3, -signal.SIGTERM]
        assert ended(pids) == ()
    finally:
        os.kill(pids[3], signal.SIGKILL)
        children[3].wait()


def test_the_last_lines_of_a_log_are_read(tmp_path):
    log = tmp_path / "log"
    assert last_lines(log) == ""
    log.write_text("x" * 5000 + "\n".join(["", "one", " ", "two", "three"]))
    assert last_lines(log, count=2) == "two\nthree"
