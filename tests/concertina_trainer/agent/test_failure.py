import os
import signal
import subprocess
import sys

import pytest
import yaml

from concertina_api.v1alpha1 import Failure, FailureCause
from concertina_trainer.agent.failure import (
    GOOD_STEPS,
    MAX_RESTARTS,
    End,
    Evidence,
    Inquest,
    culprit,
    ended,
    failure_of,
    last_lines,
    may_restart,
)
from concertina_trainer.agent.mailbox import WorkerStatus
from concertina_trainer.agent.settings import settings_from
from concertina_trainer.pod_memory import PodMemory
from tests.concertina_trainer.agent.pods import wait_for
from tests.tasks import job_document


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
        pytest.param(-9, FailureCause.INFRASTRUCTURE, "killed by SIGKILL", False, id="kill -9"),
        pytest.param(-7, FailureCause.INFRASTRUCTURE, "killed by SIGBUS", False, id="bad page"),
        pytest.param(-99, FailureCause.SIGNAL, "killed by signal 99: ValueError", False, id="odd"),
    ],
)
def test_the_way_it_ended_is_the_cause(code, want_cause, want_message, want_permanent):
    failure = failure_of(
        [end(code)],
        statuses={0: status(round=4, rank=3)},
        incarnation="a",
        evidence=Evidence(lines="ValueError", samples=range(8, 16)),
    )

    assert failure.cause is want_cause
    assert failure.message == want_message
    assert failure.permanent is want_permanent
    assert (failure.round, failure.rank, failure.incarnation) == (4, 3, "a")
    assert (failure.first_sample, failure.num_samples) == (8, 8)


def test_a_worker_that_ended_before_it_told_anything_has_no_rank():
    failure = failure_of([end(1)], statuses={}, incarnation="a", evidence=Evidence())

    assert (failure.round, failure.rank, failure.message) == (0, -1, "exit code 1")


@pytest.mark.parametrize("code", [pytest.param(1, id="other"), pytest.param(2, id="mistake")])
def test_the_account_of_the_worker_itself_is_the_best(code):
    told = Failure(round=4, incarnation="a", cause=FailureCause.NON_FINITE, message="loss is nan")

    failure = failure_of(
        [end(code)],
        statuses={0: status(failure=told)},
        incarnation="a",
        evidence=Evidence(lines="Traceback", samples=range(8), memory_kills=1),
    )

    assert failure == told.model_copy(update={"permanent": code == 2})


def test_the_end_of_a_long_log_is_kept():
    evidence = Evidence(lines="x" * 600 + "end")
    failure = failure_of([end(1)], statuses={}, incarnation="a", evidence=evidence)

    assert len(failure.message) == 512
    assert failure.message.startswith("exit code 1: xxx")
    assert failure.message.endswith("xend")


LOADER_KILLED = Failure(
    round=4,
    incarnation="a",
    cause=FailureCause.INFRASTRUCTURE,
    message="loader process 7 died while loading the samples from 16: killed by SIGKILL",
    first_sample=16,
    num_samples=8,
)


@pytest.mark.parametrize(
    ("told", "code", "want"),
    [
        pytest.param(None, -9, "killed by SIGKILL: out of memory: ", id="the worker"),
        pytest.param(LOADER_KILLED, 1, f"{LOADER_KILLED.message}: out of memory: ", id="a loader"),
    ],
)
def test_a_kill_while_the_pod_ran_out_of_memory_says_so_with_the_sizes(told, code, want):
    known = status(round=4, rank=3, peak_bytes=3 * 2**30, failure=told)
    failure = failure_of(
        [end(code)],
        statuses={0: known},
        incarnation="a",
        evidence=Evidence(samples=range(16, 24), memory_kills=1, limit_bytes=2**32),
    )

    assert failure.cause is FailureCause.OUT_OF_MEMORY
    sizes = "the worker held 3.0 GiB at its peak, the limit of the pod is 4.0 GiB"
    assert failure.message == want + sizes
    assert (failure.first_sample, failure.num_samples) == (16, 8)


def test_only_kills_since_the_workers_started_count(tmp_path):
    folder, environment = (
        tmp_path / "group",
        {
            "CONCERTINA_POD": "tiny-0",
            "CONCERTINA_UID": "u",
            "CONCERTINA_JOB": str(tmp_path / "job.yaml"),
            "CONCERTINA_RUN_DIR": str(tmp_path),
            "CONCERTINA_MEMBERSHIP": str(tmp_path / "membership.json"),
            "CONCERTINA_REPORT": str(tmp_path / "report.json"),
        },
    )
    folder.mkdir()
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job_document()))
    events = folder / "memory.events"
    events.write_text("oom 3\noom_kill 2\n")
    memory = PodMemory(
        folder=folder,
        top=folder,
        limit_file="memory.max",
        usage_file="memory.current",
        events_file="memory.events",
        cache_key="file",
        shared_key="shmem",
    )
    inquest = Inquest(settings_from(environment), memory=memory)
    inquest.begin()
    assert inquest.evidence("a", 0).memory_kills == 0
    events.write_text("oom 4\noom_kill 3\n")
    assert inquest.evidence("a", 0).memory_kills == 1
    inquest.begin()
    assert inquest.evidence("a", 0).memory_kills == 0


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
