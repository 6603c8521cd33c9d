"""The plan as a whole, on the imagined cluster: one test for each thing that can happen to a job."""

from dataclasses import replace

import pytest

from concertina_api.v1alpha1 import ConditionType, Intent, JobStatus, PodPhase
from concertina_operator.actions import CreatePod, PublishMembership
from concertina_operator.conditions import condition
from concertina_operator.observed import Observed
from concertina_operator.plan import plan
from tests.concertina_operator.factories import a_job, a_spec, at
from tests.concertina_operator.imagined_cluster import FakeCluster


def names(*indices):
    return [f"tiny-lm-{index}" for index in indices]


def a_cluster(*, effective=32, settled=True, **spec):
    """A job that trains with the pods that `effective` samples need."""
    job = a_job(a_spec(**({"batch": {"initial": effective}} | spec)))
    cluster = FakeCluster(job=job, effective=effective)
    if settled:
        cluster.settle()
        assert cluster.trains
    return cluster


def says(cluster, kind):
    found = condition(cluster.job.status, ConditionType(kind))
    return (found.status, found.reason)


def events(cluster):
    return [event.reason for event in cluster.last.events]


def test_one_resize_in_order():
    cluster = a_cluster()
    first = cluster.pods["tiny-lm-0"]
    cluster.ask(64)
    cluster.act()
    cluster.reconcile()
    assert [type(action) for action in cluster.last.actions] == [CreatePod]
    assert events(cluster) == ["RequestAccepted", "ScalingUp", "PodsCreated"]
    assert says(cluster, "RequestSatisfied") == ("False", "ScalingUp")
    assert condition(cluster.job.status, ConditionType.REQUEST_SATISFIED).message == (
        "8 micro-batches over 1 worker > maxAccumulation 4, allowed sizes 1, 2, 4 -> wants 2 pods"
    )
    assert says(cluster, "PodsReady") == ("False", "PodsStarting")
    assert says(cluster, "Ready") == ("True", "Training")

    cluster.act()  # the pod starts; training goes on
    cluster.reconcile()
    assert cluster.last.actions == ()
    cluster.act()  # it is warm
    cluster.reconcile()
    assert [type(action) for action in cluster.last.actions] == [PublishMembership]
    assert cluster.members == names(0, 1)
    assert cluster.membership.request_sequence == 1
    assert says(cluster, "Resizing") == ("True", "Growing")

    cluster.act()
    cluster.reconcile()
    status = cluster.job.status
    assert events(cluster) == ["Resized"]
    assert (status.last_resize.from_world_size, status.last_resize.to_world_size) == (1, 2)
    assert status.last_resize.pause_seconds == 0.3
    assert status.last_resize.reason == "round 2 of 2 pods; tiny-lm-1 join"
    assert (status.resizes, status.world_size, status.round) == (1, 2, 2)
    assert (status.batch.effective, status.batch.accumulation) == (64, 4)
    assert says(cluster, "Resizing") == ("False", "Steady")
    assert says(cluster, "PodsReady") == ("True", "AllMembers")
    assert cluster.pods["tiny-lm-0"] is first


def test_a_grace_that_is_too_short_for_a_step_and_a_hand_over_is_told_with_the_resize():
    cluster = a_cluster()
    cluster.ask(64)
    while cluster.job.status.resizes == 0:
        cluster.act()
        for pod in cluster.pods.values():
            if pod.progress is not None:
                pod.progress["samplesPerSecond"] = 0.5
        cluster.reconcile()
    assert events(cluster) == ["Resized", "GraceTooShort"]
    cluster.act()
    cluster.reconcile()
    assert "GraceTooShort" not in events(cluster)


def test_more_pods_wait_for_the_cooldown():
    cluster = a_cluster()
    cluster.ask(64)
    cluster.settle()
    cluster.ask(128)
    cluster.settle()
    assert cluster.members == names(0, 1)
    assert says(cluster, "RequestSatisfied") == ("False", "CoolingDown")
    assert cluster.last.requeue_after.total_seconds() == 60
    cluster.now += 60
    cluster.settle()
    assert cluster.members == names(0, 1, 2, 3)


def test_a_smaller_batch_gives_pods_back_after_its_cooldown():
    cluster = a_cluster(effective=64)
    cluster.ask(128)
    cluster.settle()
    cluster.ask(32)
    cluster.now += 299
    cluster.settle()
    assert cluster.members == names(0, 1, 2, 3)
    cluster.now += 1
    cluster.settle()
    assert cluster.members == names(0)
    assert list(cluster.pods) == names(0)


def test_a_grant_that_falls_takes_the_highest_ranks_at_once():
    cluster = a_cluster(effective=128)
    cluster.granted = 2
    cluster.settle()
    assert cluster.members == names(0, 1)
    assert says(cluster, "RequestSatisfied") == ("False", "NotGranted")
    cluster.granted = 0
    cluster.settle()
    assert cluster.pods == {}
    assert cluster.job.status.state == "WaitingForGrant"
    cluster.granted = None
    cluster.pass_time()
    assert len(cluster.members) == 4


def test_training_goes_on_with_what_is_warm_and_the_rest_is_given_back_and_tried_again():
    cluster = a_cluster(effective=32)
    cluster.capacity = 3
    cluster.ask(128)
    cluster.settle()
    assert len(cluster.members) == 2
    assert len(cluster.pods) == 4
    cluster.now += 600
    cluster.settle()
    assert events(cluster) == []
    assert len(cluster.pods) == 2
    assert (
        "no pod is created before"
        in condition(cluster.job.status, ConditionType.PODS_READY).message
    )
    assert 30 <= cluster.last.requeue_after.total_seconds() <= 60
    cluster.capacity = 4
    cluster.pass_time()
    assert len(cluster.members) == 4


def test_a_first_round_waits_for_all_pods_until_the_deadline():
    cluster = a_cluster(effective=128, settled=False)
    cluster.capacity = 3
    cluster.settle()
    assert cluster.membership is None
    cluster.now += 600
    cluster.settle()
    assert cluster.trains
    assert len(cluster.members) == 2


def test_below_min_all_pods_are_released_and_tried_again():
    cluster = a_cluster(pods={"min": 2, "max": 4}, settled=False)
    cluster.capacity = 1
    cluster.settle()
    assert len(cluster.pods) == 2
    cluster.now += 600
    cluster.settle()
    assert cluster.pods == {}
    assert (cluster.job.status.state, says(cluster, "PodsReady")[0]) == ("BackingOff", "False")
    first_wait = cluster.last.requeue_after
    assert 30 <= first_wait.total_seconds() <= 60
    cluster.now += first_wait.total_seconds()
    cluster.settle()
    assert len(cluster.pods) == 2
    cluster.now += 600
    cluster.settle()
    assert cluster.last.requeue_after > first_wait
    cluster.capacity = 2
    cluster.pass_time()
    assert cluster.trains


def test_two_jobs_that_each_hold_half_of_their_minimum_part():
    waits = []
    for uid in ("one", "other"):
        job = a_job(a_spec(pods={"min": 2, "max": 2}))
        metadata = job.metadata.model_copy(update={"uid": uid})
        cluster = FakeCluster(job=job.model_copy(update={"metadata": metadata}), capacity=1)
        cluster.settle()
        cluster.now += 600
        cluster.settle()
        waits.append(cluster.last.requeue_after.total_seconds())
    assert abs(waits[0] - waits[1]) > 1


@pytest.mark.parametrize("how", ["deleting", "leaving"])
@pytest.mark.parametrize("index", [0, 1])
def test_a_pod_that_must_go_hands_over_and_is_replaced(how, index):
    cluster = a_cluster(effective=64)
    leaver = cluster.pods[f"tiny-lm-{index}"]
    setattr(leaver, how, True)
    cluster.reconcile()
    assert [member.pod for member in cluster.membership.leaving] == [leaver.name]
    assert cluster.membership.lost == ()
    cluster.settle()
    assert cluster.trains
    assert len(cluster.members) == 2
    assert cluster.job.status.failures.count == 0
    assert all(not entry.lost for entry in cluster.history)


def test_the_only_pod_saves_before_its_replacement_starts():
    cluster = a_cluster(pods={"min": 1, "max": 1})
    cluster.pods["tiny-lm-0"].deleting = True
    cluster.reconcile()
    empty = cluster.membership
    assert (empty.members, len(empty.leaving), empty.intent) == ((), 1, Intent.RUN)
    assert len(cluster.pods) == 1
    cluster.settle()
    assert cluster.trains
    assert cluster.history[-1].leaving == ()


def test_restarted_workers_are_lost_and_join_again():
    cluster = a_cluster(effective=64)
    pod = cluster.pods["tiny-lm-1"]
    cluster.restart_workers(pod, message="killed by SIGKILL")
    cluster.settle()
    assert cluster.trains
    assert cluster.pods["tiny-lm-1"] is pod
    newest = cluster.history[-1]
    assert [member.key for member in newest.members] == ["u1.i0", "u2.i1"]
    assert [member.key for member in newest.lost] == ["u2.i0"]
    assert cluster.job.status.failures.count == 1
    assert cluster.job.status.failures.message == (
        "tiny-lm-1 failed (Exception): killed by SIGKILL"
    )


def test_a_silent_member_is_probed_and_excluded():
    cluster = a_cluster(effective=64)
    silent = cluster.pods["tiny-lm-1"]
    silent.silent = True
    cluster.act()
    cluster.reconcile()
    assert (cluster.membership.round, cluster.membership.probe) == (1, 1)
    assert events(cluster) == ["RoundProbed"]
    assert says(cluster, "Ready") == ("False", "RoundBroken")
    cluster.settle()
    assert cluster.members == names(0, 1)
    assert cluster.last.requeue_after.total_seconds() == 5
    cluster.now += 5
    cluster.act()
    cluster.reconcile()
    assert (cluster.members, [m.pod for m in cluster.membership.lost]) == (names(0), names(1))
    cluster.pass_time()
    assert cluster.trains
    assert silent not in cluster.pods.values()


def test_a_probe_that_was_never_published_counts_for_nothing():
    cluster = a_cluster(effective=64)
    accuser = cluster.pods["tiny-lm-0"]
    accuser.phase, accuser.suspects = PodPhase.WAITING, ("tiny-lm-1",)
    intended = plan(cluster.observed(), at(cluster.now))
    assert [type(action) for action in intended.actions] == [PublishMembership]
    cluster.job = cluster.job.model_copy(update={"status": intended.status})  # and then it ended
    cluster.now += 10
    cluster.reconcile()
    assert (cluster.members, cluster.membership.probe) == (names(0, 1), 2)
    assert cluster.job.status.probe_at == at(cluster.now)


def test_an_echo_of_a_probe_before_the_membership_was_deleted_is_no_answer():
    cluster = a_cluster(effective=64)
    accuser = cluster.pods["tiny-lm-0"]
    accuser.phase, accuser.suspects = PodPhase.WAITING, ("tiny-lm-1",)
    cluster.settle()
    assert {pod.probe for pod in cluster.pods.values()} == {1}
    cluster.membership = None
    cluster.reconcile()
    assert cluster.membership.probe == 0
    members = cluster.members
    cluster._commit()  # nobody has read it, so all echo the earlier probe still
    accuser.phase, accuser.suspects = PodPhase.WAITING, tuple(members[1:])
    cluster.reconcile()
    assert (cluster.members, cluster.membership.probe) == (members, 2)


def test_a_loss_below_min_forces_a_smaller_round_and_says_so():
    cluster = a_cluster(pods={"min": 2, "max": 2})
    cluster.capacity = 1
    del cluster.pods["tiny-lm-0"]
    cluster.settle()
    assert cluster.members == names(1)
    assert cluster.trains
    assert says(cluster, "PodsReady") == ("False", "BelowMinimum")
    cluster.capacity = 2
    cluster.settle()
    assert cluster.members == ["tiny-lm-1", "tiny-lm-0"]


def test_survivors_below_min_are_released_after_the_deadline():
    cluster = a_cluster(pods={"min": 2, "max": 2})
    cluster.capacity = 1
    del cluster.pods["tiny-lm-0"]
    cluster.settle()
    cluster.now += 600
    cluster.reconcile()
    assert "PodsReleased" in events(cluster)
    assert cluster.membership.intent is Intent.RUN
    assert [member.pod for member in cluster.membership.leaving] == names(1)
    cluster.settle()
    assert cluster.pods == {}
    cluster.capacity = 2
    cluster.pass_time()
    assert cluster.trains


def test_all_members_lost_start_again_from_the_checkpoint():
    cluster = a_cluster(effective=64)
    cluster.pods.clear()
    cluster.settle()
    assert cluster.trains
    assert [len(entry.members) for entry in cluster.history] == [2, 0, 2]


def test_a_round_that_cannot_form_is_superseded_later_each_time():
    cluster = a_cluster(effective=64)
    cluster.pods["tiny-lm-1"].suspects = ()
    cluster.pods["tiny-lm-0"].leaving = True
    cluster.reconcile()
    cluster.pods["tiny-lm-1"].phase = PodPhase.STARTING  # it never enters the round
    number = cluster.membership.round
    assert cluster.last.requeue_after.total_seconds() == 30
    cluster.now += 30
    cluster.reconcile()
    assert (cluster.membership.round, cluster.membership.probe) == (number, 1)
    for pod in cluster.pods.values():
        pod.probe = 1
    cluster.reconcile()
    assert cluster.membership.round == number + 1
    assert cluster.last.requeue_after.total_seconds() == 60


def test_a_deleted_membership_is_written_again_with_a_higher_round():
    cluster = a_cluster(effective=64)
    cluster.membership = None
    cluster.pass_time()
    assert cluster.trains
    assert cluster.membership.round > 1


def test_a_failing_job_is_tried_again_up_to_its_limit():
    cluster = a_cluster(failurePolicy={"backoffLimit": 2})
    for want_count in (1, 2):
        cluster.kill(cluster.pods[cluster.members[0]], code=1)
        cluster.reconcile()
        assert cluster.job.status.failures.count == want_count
        assert cluster.job.status.state == "BackingOff"
        cluster.pass_time()
        assert cluster.trains
    cluster.kill(cluster.pods[cluster.members[0]], code=1)
    cluster.settle()
    assert says(cluster, "Failed") == ("True", "BackoffLimitExceeded")
    assert cluster.job.status.completion_time == at(cluster.now)
    assert cluster.job.status.state == "Failed"


@pytest.mark.parametrize("trains", [True, False])
def test_pods_that_no_node_will_have_are_tried_ever_more_rarely(trains):
    cluster = a_cluster(settled=trains)
    cluster.ask(64)
    while cluster.now < 3600:
        cluster.act()
        actions = cluster.reconcile().actions
        for pod in cluster.pods.values():
            if pod.phase is None:
                pod.rejected = "OutOfnvidia.com/gpu: Node had no GPU"
        if not actions:
            cluster.now += cluster.last.requeue_after.total_seconds()
    assert 5 < cluster.born < 20
    message = condition(cluster.job.status, ConditionType.PODS_READY).message
    assert "(NotStarted): OutOfnvidia.com/gpu: Node had no GPU" in message
    assert cluster.job.status.failures.count == 0
    assert cluster.trains is trains


def test_a_user_mistake_fails_the_job_at_once():
    cluster = a_cluster(effective=64)
    pod = cluster.pods["tiny-lm-1"]
    pod.failure = {
        "round": 1, "incarnation": "i0", "cause": "InvalidJob", "message": "no such model",
        "permanent": True,
    }  # fmt: skip
    pod.exit_code = 2
    cluster.settle()
    assert says(cluster, "Failed") == ("True", "InvalidJob")
    assert cluster.membership.intent is Intent.STOP
    assert [pod.name for pod in cluster.pods.values() if pod.runs] == []


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


def test_off_does_nothing_at_all():
    job = a_job(a_spec(scaling={"mode": "Off"}))
    got = plan(Observed(job=job), at(0))
    assert (got.actions, got.events, got.requeue_after) == ((), (), None)
    assert got.status == job.status


def test_pods_of_an_unknown_protocol_are_left_alone():
    cluster = a_cluster()
    report = cluster.pods["tiny-lm-0"].report()
    foreign = report.model_copy(
        update={"protocols": report.protocols.model_copy(update={"oldest": 2, "newest": 3})}
    )
    observed = cluster.observed()
    observed = Observed(
        job=observed.job,
        membership=observed.membership,
        reports={"tiny-lm-0": foreign},
        pods=observed.pods,
        granted=0,
    )
    got = plan(observed, at(0))
    assert got.actions == ()
    assert condition(got.status, ConditionType.COMPATIBLE).status == "False"


def test_an_absurd_request_is_refused_with_an_event_and_training_goes_on():
    cluster = a_cluster()
    cluster.pods["tiny-lm-0"].request = {
        "sequence": 9, "requested": 2**20, "effective": 2**20, "reason": "all of it",
    }  # fmt: skip
    made = cluster.reconcile()
    assert made.actions == ()
    assert [event.message for event in made.events] == [
        "report of tiny-lm-0: request 9 runs 1048576 samples, above max 512"
    ]
    assert made.status.batch.sequence == 0


def test_the_status_is_valid_and_survives_json():
    cluster = a_cluster(effective=64)
    cluster.restart_workers(cluster.pods["tiny-lm-1"], message="x" * 500)
    cluster.settle()
    text = cluster.job.status.model_dump_json(by_alias=True)
    assert JobStatus.model_validate_json(text) == cluster.job.status


def test_the_status_counts_pods_that_run_an_older_template():
    cluster = a_cluster(effective=64)
    observed = cluster.observed()
    pods = tuple(
        replace(pod, outdated=outdated, exit_code=code)
        for pod in observed.pods[:1]
        for outdated, code in ((True, None), (False, None), (True, 0))
    )
    assert plan(replace(observed, pods=pods), at(0)).status.pods.outdated == 1


def test_gpu_seconds_count_every_worker_of_every_pod():
    cluster = a_cluster(effective=128, pods={"min": 1, "max": 4, "workersPerPod": 2})
    cluster.now += 30
    cluster.reconcile()
    assert cluster.job.status.gpu_seconds == 30 * 2 * 2
