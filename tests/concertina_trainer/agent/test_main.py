import json
import signal
from contextlib import ExitStack

import pytest

from concertina_api.v1alpha1 import FailureCause, Intent, PodPhase
from concertina_trainer.agent.main import main
from tests.concertina_trainer.agent.clusters import MEMBERSHIPS, ClusterRun
from tests.concertina_trainer.agent.pods import free_port, job_manifest, wait_for
from tests.concertina_trainer.agent.test_endpoint import status_of


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


def test_an_agent_whose_membership_is_deleted_ends_at_once(cluster_run, kubernetes):
    pod = cluster_run.pod("tiny-0")
    pod.warm()
    pod.order("stubborn")
    cluster_run.publish(1, pod.member())
    pod.trains(1)

    kubernetes.delete(MEMBERSHIPS, "tiny")

    assert pod.exit_code() == 1
    assert "the membership is gone" in pod.log


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


def test_a_mistake_on_kubernetes_is_in_the_report(cluster_run):
    wrong = job_manifest()
    wrong["spec"]["samples"] = -1
    environment = cluster_run.environment("tiny-0") | {"CONCERTINA_SPEC": json.dumps(wrong)}

    assert main((), environment) == 2

    report = cluster_run.report("tiny-0")
    assert (report.phase, report.failure.cause) == (PodPhase.FAILED, FailureCause.INVALID_JOB)
    assert report.failure.permanent
    assert "samples" in report.failure.message
