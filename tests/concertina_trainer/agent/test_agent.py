import signal
import subprocess
import sys
import time

from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

from concertina_api.v1alpha1 import FailureCause, Intent, PodPhase
from concertina_trainer.agent.agent import LiveAgent
from concertina_trainer.agent.failure import MAX_RESTARTS
from concertina_trainer.agent.mailbox import Notice
from concertina_trainer.agent.main import main
from tests.concertina_trainer.agent.pods import (
    DEADLINE_SECONDS,
    has_ended,
    scrape,
    wait_for,
)
from tests.concertina_trainer.agent.unlucky import run_unlucky_agent
from tests.ports import free_port
from tests.worlds import spawn


def test_workers_live_through_every_membership_until_the_job_is_suspended(run):
    pod = run.pod("tiny-0")

    warm = pod.warm()  # before any membership exists
    worker = pod.status().pid
    me = pod.member()
    run.publish(1, me)
    first = pod.trains(1)
    assert first.port != warm.port  # a store that nobody has written to, for the next round
    assert first.acknowledged.round == 1

    run.publish(1, me, probe=7)
    pod.reports(lambda report: report.probe == 7, "the probe's echo")
    run.publish(4)  # a round without members, rounds were skipped
    pod.reports(lambda report: report.phase is PodPhase.WAITING, "Waiting")
    run.publish(5, pod.member())
    fifth = pod.trains(5)
    assert fifth.port not in (warm.port, first.port)
    assert fifth.incarnation == warm.incarnation
    assert pod.status().pid == worker

    run.publish(6, intent=Intent.SUSPEND)
    assert pod.exit_code() == 0
    assert pod.report.phase is PodPhase.LEFT
    assert "worker0]:" not in pod.log  # this worker has nothing to say


def test_failed_workers_start_again_as_others_until_they_failed_too_often(run_of_two):
    port = free_port()
    pod = run_of_two.pod("tiny-0", CONCERTINA_METRICS_PORT=str(port))
    seen = pod.warm()
    run_of_two.publish(1, pod.member())
    pod.trains(1)
    pod.order("step 40")
    wait_for(lambda: scrape(port)["samples_total"] == 320, lambda: str(scrape(port)))

    peer = pod.status(1).pid
    pod.order("exit 3")
    seen = pod.warm(after=seen.incarnation)
    assert has_ended(peer)
    assert seen.failure.cause is FailureCause.EXIT_CODE
    assert seen.failure.message == "exit code 3: about to exit with 3"
    assert (seen.failure.round, seen.failure.rank) == (1, 0)
    assert "[worker0]:about to exit with 3" in pod.log

    pod.order("die SIGKILL", local_rank=1)
    seen = pod.warm(after=seen.incarnation)
    assert seen.failure.cause is FailureCause.INFRASTRUCTURE
    assert seen.failure.message == "killed by SIGKILL"

    pod.order("fail")
    seen = pod.warm(after=seen.incarnation)
    assert seen.failure.cause is FailureCause.NON_FINITE
    assert seen.failure.message == "5 steps in a row"

    served = scrape(port)
    assert served["samples_total"] == 320
    assert served["worker_restarts_total"] == 3
    assert "loss" not in served  # nobody leads from here any more

    pod.order("exit 3")
    assert pod.exit_code() == 1
    assert pod.report.phase is PodPhase.FAILED
    assert pod.report.failure.incarnation == seen.incarnation
    assert "Unable to shutdown" not in pod.log  # torch waits 30 s before it says so


def test_a_mistake_of_the_user_is_final_and_a_pod_told_to_end_leaves(run):
    wrong, leaver = run.pod("tiny-0"), run.pod("tiny-1")

    first = wrong.warm()
    wrong.order("exit 2")
    assert wrong.exit_code() == 1
    assert wrong.report.failure.cause is FailureCause.INVALID_JOB
    assert wrong.report.failure.permanent
    assert wrong.report.incarnation == first.incarnation  # it was not started again

    leaver.warm()
    me = leaver.member()
    run.publish(1, me)
    leaver.trains(1)
    told = time.monotonic()
    leaver.signal(signal.SIGTERM)
    leaver.reports(lambda report: report.leaving, "leaving")
    notice = wait_for(
        lambda: (path := leaver.mailbox / "notice.json").exists() and path.read_bytes(),
        lambda: "a notice",
    )
    deadline = Notice.model_validate_json(notice).deadline
    assert told + 50 < deadline < time.monotonic() + 60
    run.publish(2, leaving=(me,))
    assert leaver.exit_code() == 0
    assert leaver.report.phase is PodPhase.LEFT


def test_workers_that_do_not_leave_are_killed(run):
    slow = run.pod("tiny-0", CONCERTINA_GRACE_SECONDS="1")
    twice = run.pod("tiny-1")
    orphaned = run.pod("tiny-2")
    killed = run.pod("tiny-3")
    pods = (slow, twice, orphaned, killed)
    for pod in pods:
        pod.warm()
        pod.order("stubborn")
    workers = [pod.status().pid for pod in pods]
    for pod in pods:
        wait_for(lambda: not (pod.mailbox / "order-0").exists(), lambda: "obeyed")  # noqa: B023

    slow.signal(signal.SIGTERM)  # nobody leaves within the second of grace
    twice.signal(signal.SIGTERM)
    twice.reports(lambda report: report.leaving, "leaving")
    twice.signal(signal.SIGINT)
    killed.signal(signal.SIGKILL)
    assert slow.exit_code() == 1
    assert twice.exit_code() == 1
    assert killed.exit_code() == -signal.SIGKILL

    run.publish(1)
    wait_for(lambda: (orphaned.mailbox / "membership.json").exists(), lambda: "relayed")
    run.membership.unlink()
    assert orphaned.exit_code() == 1
    assert "the membership is gone" in orphaned.log
    wait_for(lambda: all(map(has_ended, workers)), lambda: "no worker is left")


def test_rounds_meet_in_stores_that_the_agents_serve(run):
    first, second = run.pod("tiny-0", "gloo"), run.pod("tiny-1", "gloo")
    first.warm()
    run.publish(1, first.member())
    assert first.trains(1).progress.samples == 1

    second.warm()
    run.publish(2, first.member(), second.member())
    assert first.trains(2).progress.samples == 2
    assert second.trains(2).progress is None  # only the leader speaks for the job
    leaver = first.member()
    run.publish(3, second.member(), leaving=(leaver,))
    assert first.exit_code() == 0
    third = second.trains(3)
    assert third.progress.samples == 1
    assert third.acknowledged.round == 3


def test_a_worker_that_dies_between_two_looks_is_counted_as_a_failure(run, tmp_path):
    starts, log = tmp_path / "starts", tmp_path / "agent.log"
    process = spawn(run_unlucky_agent, run.environment("tiny-0"), starts, str(log))
    process.join(DEADLINE_SECONDS)

    assert process.exitcode == 1, log.read_text()
    failure = run.report("tiny-0").failure
    assert (failure.cause, failure.message) == (FailureCause.INFRASTRUCTURE, "killed by SIGKILL")
    assert len(starts.read_text()) == 1 + MAX_RESTARTS


def test_the_command_tells_mistakes_at_once(run, tmp_path):
    (tmp_path / "job.yaml").write_text("kind: Nothing")

    done = subprocess.run(
        [sys.executable, "-m", "concertina_trainer.agent"],
        env={"CONCERTINA_POD": "Bad_Name", "CONCERTINA_METRICS_PORT": "http"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert "CONCERTINA_UID is not set" in done.stderr
    assert "CONCERTINA_POD='Bad_Name'" in done.stderr
    assert "CONCERTINA_METRICS_PORT='http' is not a number" in done.stderr


def test_a_mistake_before_the_workers_start_is_in_the_report(run, tmp_path):
    (tmp_path / "job.yaml").write_text("kind: Nothing")

    assert main((), run.environment("tiny-0")) == 2

    report = run.report("tiny-0")
    assert (report.phase, report.failure.cause) == (PodPhase.FAILED, FailureCause.INVALID_JOB)
    assert report.failure.permanent
    assert "job.yaml" in report.failure.message


def test_the_private_names_of_torch_that_are_used_exist():
    for name in ("_start_workers", "_monitor_workers", "_exit_barrier"):
        assert name in vars(LiveAgent)
        assert callable(getattr(LocalElasticAgent, name))
