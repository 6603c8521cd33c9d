import errno
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from concertina_api.errors import StorageUnavailable
from concertina_api.v1alpha1 import FailureCause, Intent, PodPhase
from concertina_trainer.agent.main import main
from tests.concertina_trainer.agent.clusters import MEMBERSHIPS, ClusterRun
from tests.concertina_trainer.agent.pods import (
    DEADLINE_SECONDS,
    job_manifest,
    wait_for,
)
from tests.concertina_trainer.agent.test_endpoint import status_of
from tests.ports import free_port


@pytest.fixture
def cluster_run(tmp_path, kubernetes):
    with ExitStack() as stack:
        yield ClusterRun(tmp_path, stack, kubernetes)


def test_an_agent_on_kubernetes_follows_the_membership_to_the_end(cluster_run, kubernetes):
    port = free_port()
    pod = cluster_run.pod("tiny-0", CONCERTINA_METRICS_PORT=str(port))
    warm = pod.warm()
    assert warm.host == "127.0.0.1"
    wait_for(lambda: status_of(port, "/readyz") == 200, lambda: "the pod is ready")

    cluster_run.publish(1, pod.member())
    pod.trains(1)
    kubernetes.stop()
    cluster_run.publish(2, pod.member())
    pod.order("step 40")
    kubernetes.start()
    pod.trains(2)

    pod.signal(signal.SIGTERM)
    pod.reports(lambda report: report.leaving, "leaving")
    cluster_run.publish(3, intent=Intent.SUSPEND)
    assert pod.exit_code() == 0
    assert pod.report.phase is PodPhase.LEFT


def test_a_port_that_a_sidecar_has_taken_stops_no_pod(cluster_run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        pod = cluster_run.pod("tiny-0", CONCERTINA_METRICS_PORT=str(taken.getsockname()[1]))
        pod.warm()
    assert "training goes on without it" in pod.log


def test_an_agent_whose_membership_is_deleted_ends_at_once(cluster_run, kubernetes):
    pod = cluster_run.pod("tiny-0")
    pod.warm()
    pod.order("stubborn")
    cluster_run.publish(1, pod.member())
    pod.trains(1)

    kubernetes.delete(MEMBERSHIPS, "tiny")

    assert pod.exit_code() == 1
    assert "the membership is gone" in pod.log


def test_an_agent_that_is_told_to_end_while_it_starts_ends_at_once(tmp_path):
    slow = tmp_path / "pydantic.py"  # whatever is imported first may take its time
    slow.write_text("import os, signal\nos.mkdir('reached')\nwhile True: signal.pause()\n")
    # As in the first process of a container, where SIGTERM is nothing unless there is a handler.
    deaf = "import os, signal, sys; signal.signal(15, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    agent = subprocess.Popen(
        [sys.executable, "-c", deaf, sys.executable, "-m", "concertina_trainer.agent"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        cwd=tmp_path,
    )
    try:
        wait_for(tmp_path.joinpath("reached").exists, lambda: "the first import is reached")
        agent.terminate()
        assert agent.wait(DEADLINE_SECONDS) == 0
    finally:
        agent.kill()
        agent.wait()


def test_an_agent_whose_workers_are_not_warm_is_kept_by_nobody(cluster_run, kubernetes):
    pod = cluster_run.pod("tiny-0", "cold")
    pod.reports(lambda report: report.phase is PodPhase.STARTING, "Starting")

    kubernetes.stop()
    pod.signal(signal.SIGTERM)

    assert pod.exit_code() == 0
    assert "told to end before the workers were warm" in pod.log
    assert "the last report was not written" not in pod.log


def test_the_last_words_of_an_agent_are_kept_until_somebody_hears_them(cluster_run, kubernetes):
    pod = cluster_run.pod("tiny-0")
    pod.warm()

    kubernetes.stop()
    pod.order("exit 2")
    wait_for(lambda: "giving up" in pod.log, lambda: pod.log)
    wait_for(lambda: "the report is not written" in pod.log, lambda: pod.log)
    assert pod.process.is_alive()
    kubernetes.start()

    assert pod.exit_code() == 1
    assert pod.report.failure.cause is FailureCause.INVALID_JOB


def test_a_full_disk_is_nobodys_mistake(cluster_run, monkeypatch):
    def full(path, *_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "mkdir", full)

    assert main((), cluster_run.environment("tiny-0")) == StorageUnavailable.exit_code

    report = cluster_run.report("tiny-0")
    assert (report.phase, report.failure.cause) == (PodPhase.FAILED, FailureCause.INFRASTRUCTURE)
    assert not report.failure.permanent
    assert "No space left on device" in report.failure.message


def test_a_mistake_on_kubernetes_is_in_the_report(cluster_run):
    wrong = job_manifest()
    wrong["spec"]["samples"] = -1
    environment = cluster_run.environment("tiny-0") | {"CONCERTINA_SPEC": json.dumps(wrong)}

    assert main((), environment) == 2

    report = cluster_run.report("tiny-0")
    assert (report.phase, report.failure.cause) == (PodPhase.FAILED, FailureCause.INVALID_JOB)
    assert report.failure.permanent
    assert "samples" in report.failure.message
