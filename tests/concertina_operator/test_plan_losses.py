"""The plan when pods must go, are lost, fail or cannot start."""

import pytest

from concertina_api.v1alpha1 import ConditionType, Intent, PodPhase
from concertina_operator.actions import PublishMembership
from concertina_operator.conditions import condition
from concertina_operator.plan import plan
from tests.concertina_operator.factories import at
from tests.concertina_operator.planned import a_cluster, events, names, says


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


@pytest.mark.parametrize("index", [0, 1])
def test_a_pod_under_notice_hands_over_and_is_replaced_before_it_is_told(index):
    cluster = a_cluster(effective=64)
    leaver = cluster.pods[f"tiny-lm-{index}"]
    leaver.notice = "node n1 has the taint karpenter.sh/disrupted"
    cluster.reconcile()
    assert [member.pod for member in cluster.membership.leaving] == [leaver.name]
    told = f"{leaver.name}: {leaver.notice}"
    assert told in condition(cluster.job.status, ConditionType.RESIZING).message
    assert [event.message for event in cluster.last.events if event.reason == "NoticeGiven"] == [
        f"{told}; it leaves now"
    ]
    cluster.settle()
    assert cluster.trains
    assert len(cluster.members) == 2
    assert leaver.uid not in {pod.uid for pod in cluster.pods.values()}
    assert cluster.job.status.failures.count == 0
    assert all(not entry.lost for entry in cluster.history)


def test_all_pods_under_notice_save_and_others_go_on():
    cluster = a_cluster(effective=64)
    for pod in cluster.pods.values():
        pod.notice = "DisruptionTarget: PreemptionByScheduler"
    cluster.reconcile()
    assert (cluster.membership.members, len(cluster.membership.leaving)) == ((), 2)
    cluster.settle()
    assert cluster.trains
    assert sorted(cluster.members) == sorted(cluster.pods)


def test_a_pod_under_notice_that_is_in_no_round_is_replaced_at_once():
    cluster = a_cluster(effective=32, settled=False)
    cluster.reconcile()
    (starter,) = cluster.pods.values()
    starter.notice = "node n1 has the taint x"
    cluster.reconcile()
    assert [(action.name, getattr(action, "reason", None)) for action in cluster.last.actions] == [
        ("tiny-lm-0", "node n1 has the taint x"),
        ("tiny-lm-1", None),
    ]


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
