"""The plan as a whole, on the imagined cluster: one test for each thing that can happen to a job.

Here: sizes, rounds and the books. What goes wrong: test_plan_losses.py; what ends, rests or is only
watched: test_plan_endings.py.
"""

from dataclasses import replace

from concertina_api.v1alpha1 import ConditionType, JobStatus
from concertina_operator.actions import CreatePod, PublishMembership
from concertina_operator.conditions import condition
from concertina_operator.observed import Observed
from concertina_operator.plan import plan
from tests.concertina_operator.factories import a_job, a_spec, at
from tests.concertina_operator.imagined_cluster import FakeCluster
from tests.concertina_operator.planned import a_cluster, events, names, says


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
