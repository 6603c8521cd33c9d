"""The plan when a job finishes, is suspended, or is watched and not acted on."""

from dataclasses import replace

import pytest

from concertina_api.v1alpha1 import ConditionType, Intent, PodPhase
from concertina_operator.conditions import condition
from concertina_operator.plan import plan
from tests.concertina_operator.factories import at
from tests.concertina_operator.planned import a_cluster, events, names, says


@pytest.mark.parametrize(
    ("policy", "want_left"), [("Running", names(0, 1)), ("All", []), ("None", names(0, 1))]
)
def test_a_finished_job_is_complete_and_cleaned_up(policy, want_left):
    cluster = a_cluster(effective=64, cleanupPolicy=policy)
    cluster.finish()
    cluster.settle()
    assert says(cluster, "Completed") == ("True", "Finished")
    assert cluster.job.status.state == "Completed"
    assert sorted(cluster.pods) == want_left
    assert cluster.last.requeue_after is None


def test_a_finished_leader_sends_the_others_home():
    cluster = a_cluster(effective=64)
    leader = cluster.pods["tiny-lm-0"]
    leader.phase, leader.finished, leader.exit_code = PodPhase.FINISHED, True, 0
    cluster.reconcile()
    assert (cluster.membership.intent, cluster.members) == (Intent.STOP, [])
    assert cluster.job.status.state == "Finishing"
    cluster.settle()
    assert says(cluster, "Completed") == ("True", "Finished")


def test_a_finishing_job_wants_no_more_than_it_is_granted():
    cluster = a_cluster(effective=64)
    leader = cluster.pods["tiny-lm-0"]
    leader.phase, leader.finished = PodPhase.FINISHED, True
    cluster.granted = 0
    cluster.reconcile()
    assert (cluster.job.status.state, cluster.job.status.pods.wanted) == ("Finishing", 0)


@pytest.mark.parametrize(("trained", "want"), [(False, names(0, 1)), (True, names(0))])
def test_nobody_joins_once_no_step_follows(trained, want):
    cluster = a_cluster()
    cluster.ask(64)
    for _ in range(3):  # a pod is created, starts, and is warm
        cluster.act()
        cluster.pods["tiny-lm-0"].progress["trained"] = trained
        cluster.reconcile()
    assert cluster.members == want


def test_finished_pods_that_do_not_exit_are_deleted_after_the_leave_deadline():
    cluster = a_cluster(effective=64)
    for pod in cluster.pods.values():
        pod.phase, pod.finished, pod.silent = PodPhase.FINISHED, True, True
    cluster.reconcile()
    assert (cluster.job.status.state, says(cluster, "Completed")[0]) == ("Finishing", "False")
    cluster.now += cluster.last.requeue_after.total_seconds()
    cluster.reconcile()
    assert [action.name for action in cluster.last.actions] == names(0, 1)
    cluster.reconcile()
    assert says(cluster, "Completed") == ("True", "Finished")


def test_a_job_that_ends_does_not_wait_for_workers_that_were_started_anew():
    cluster = a_cluster(failure_policy={"backoff_limit": 0})
    cluster.restart_workers(cluster.pods["tiny-lm-0"], message="ValueError")
    cluster.reconcile()
    assert says(cluster, "Failed") == ("True", "BackoffLimitExceeded")
    assert [action.name for action in cluster.last.actions] == names(0)


def test_samples_that_fail_three_times_fail_the_job_and_are_named():
    cluster = a_cluster(failure_policy={"backoff_limit": 10})
    for _ in range(3):
        assert says(cluster, "Failed")[0] == "False"
        cluster.restart_workers(cluster.pods["tiny-lm-0"], message="bad label", first_sample=16)
        cluster.settle()
    assert says(cluster, "Failed") == ("True", "PoisonSample")
    message = condition(cluster.job.status, ConditionType.FAILED).message
    assert message.startswith("samples 16 to 23: 3 failures, the last: tiny-lm-0 failed")
    assert message.endswith("bad label")


@pytest.mark.parametrize(
    ("cause", "want"),
    [
        pytest.param("Exception", "BackoffLimitExceeded", id="an error in the task's code"),
        pytest.param("OutOfMemory", "OutOfMemory", id="micro-batches that do not fit"),
    ],
)
def test_a_job_that_never_trains_is_tried_to_the_limit_and_blames_no_samples(cause, want):
    cluster = a_cluster(failure_policy={"backoff_limit": 3}, settled=False)
    cluster.does_steps = False
    for _ in range(4):
        cluster.settle()
        assert says(cluster, "Failed")[0] == "False"
        pod = cluster.pods["tiny-lm-0"]
        cluster.restart_workers(pod, message="broken", cause=cause, first_sample=0)
        cluster.reconcile()
    assert says(cluster, "Failed") == ("True", want)


def test_a_job_that_is_given_up_for_its_memory_says_so():
    cluster = a_cluster(failure_policy={"backoff_limit": 0})
    cluster.restart_workers(cluster.pods["tiny-lm-0"], message="12 GiB", cause="OutOfMemory")
    cluster.reconcile()
    assert says(cluster, "Failed") == ("True", "OutOfMemory")
    assert [event.reason for event in cluster.last.events][:1] == ["OutOfMemory"]


def test_failures_of_the_infrastructure_never_fail_a_job_but_hold_new_pods_back():
    cluster = a_cluster(failure_policy={"backoff_limit": 0})
    for number in range(1, 6):
        cluster.kill(cluster.pods["tiny-lm-0"])
        cluster.reconcile()
        assert cluster.job.status.retry.not_before > at(cluster.now)
        assert cluster.job.status.failures.infrastructure == number
        cluster.pass_time(horizon=60)
        assert cluster.trains
    assert says(cluster, "Failed") == ("False", "NotFailed")
    assert cluster.job.status.failures.count == 0


def test_suspend_releases_all_pods_and_resume_starts_them_again():
    cluster = a_cluster(effective=64)
    cluster.set_spec(suspend=True)
    cluster.reconcile()
    assert (cluster.membership.intent, len(cluster.membership.leaving)) == (Intent.SUSPEND, 2)
    assert (cluster.job.status.state, len(cluster.pods)) == ("Suspending", 2)
    cluster.settle()
    assert cluster.pods == {}
    assert says(cluster, "Suspended") == ("True", "Suspended")
    assert cluster.last.requeue_after is None
    cluster.set_spec(suspend=False)
    cluster.reconcile()
    assert cluster.membership.intent is Intent.RUN
    cluster.settle()
    assert cluster.trains
    assert says(cluster, "Suspended")[0] == "False"


def test_a_resume_lets_the_pods_finish_saving_first():
    cluster = a_cluster(effective=64)
    cluster.set_spec(suspend=True)
    cluster.reconcile()
    cluster.set_spec(suspend=False)
    cluster.reconcile()
    assert (cluster.last.actions, cluster.membership.intent) == ((), Intent.SUSPEND)
    cluster.settle()
    assert cluster.trains
    assert [entry.intent for entry in cluster.history] == ["Run", "Suspend", "Run", "Run"]


def test_the_active_deadline_stands_still_while_suspended():
    cluster = a_cluster(activeDeadlineSeconds=100)
    cluster.now += 60
    cluster.set_spec(suspend=True)
    cluster.settle()
    cluster.now += 1000
    cluster.set_spec(suspend=False)
    cluster.settle()
    assert cluster.trains
    assert cluster.last.requeue_after.total_seconds() == 40
    cluster.now += 40
    cluster.settle()
    assert says(cluster, "Failed") == ("True", "DeadlineExceeded")


def test_recommend_explains_everything_and_does_nothing():
    cluster = a_cluster(effective=32)
    cluster.set_spec(scaling={"mode": "Recommend"})
    before = cluster.membership
    cluster.ask(64)
    cluster.act()
    cluster.reconcile()
    assert (cluster.membership, list(cluster.pods)) == (before, names(0))
    assert cluster.last.reason.startswith("mode Recommend: would create tiny-lm-1.")
    assert events(cluster) == ["RequestAccepted", "Recommended"]
    assert cluster.last.events[-1].message == "would create tiny-lm-1"
    status = cluster.job.status
    assert (status.state, status.round, status.pods.wanted) == ("Recommend", 1, 1)
    assert says(cluster, "Ready") == ("True", "Training")
    assert says(cluster, "Resizing") == ("False", "Steady")
    assert says(cluster, "RequestSatisfied") == ("False", "ScalingUp")


def test_recommend_says_how_a_job_is_and_not_how_it_would_be():
    cluster = a_cluster(effective=64)
    cluster.set_spec(scaling={"mode": "Recommend"})
    cluster.set_spec(suspend=True)
    cluster.reconcile()
    assert "would publish round 2 of no pods" in cluster.last.reason
    assert says(cluster, "Suspended") == ("False", "NotSuspended")
    assert says(cluster, "Ready") == ("True", "Training")
    assert events(cluster) == ["Recommended"]


@pytest.mark.parametrize("meanwhile", ["Recommend", "incompatible"])
def test_a_failure_seen_while_nothing_is_done_is_acted_on_later(meanwhile):
    cluster = a_cluster()
    pod = cluster.pods["tiny-lm-0"]
    pod.phase = PodPhase.FAILED
    pod.failure = {
        "round": 1,
        "incarnation": "i0",
        "cause": "InvalidJob",
        "message": "no such column",
        "permanent": True,
    }
    observed = cluster.observed()
    if meanwhile == "Recommend":
        cluster.set_spec(scaling={"mode": "Recommend"})
        observed = cluster.observed()
    else:
        report = observed.reports["tiny-lm-0"]
        protocols = report.protocols.model_copy(update={"oldest": 2, "newest": 3})
        foreign = report.model_copy(update={"protocols": protocols})
        observed = replace(observed, reports={"tiny-lm-0": foreign})
    idle = plan(observed, at(cluster.now))
    assert idle.actions == ()
    cluster.job = cluster.job.model_copy(update={"status": idle.status})
    cluster.set_spec()
    cluster.reconcile()
    assert says(cluster, "Failed") == ("True", "InvalidJob")
