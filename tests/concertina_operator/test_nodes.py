"""Nodes that the plan keeps pods off."""

import pytest

from concertina_api.v1alpha1 import ConditionType
from concertina_operator.actions import CreatePod
from concertina_operator.conditions import condition
from tests.concertina_operator.planned import a_cluster, events

BAD, GOOD = "bad", "good"


def a_job_on_nodes(*, pods=None, **policy):
    """A job of two pods, the second on a bad node."""
    cluster = a_cluster(effective=64, pods=pods, failure_policy=policy)
    for pod, node in zip(cluster.pods.values(), (GOOD, BAD), strict=True):
        pod.node = node
    return cluster


def lose(cluster):
    """The node of the second pod would not have it any more; what the plan then creates."""
    victim = list(cluster.pods.values())[-1]
    victim.rejected = "NodeLost"
    cluster.reconcile()
    created = [action for action in cluster.last.actions if isinstance(action, CreatePod)]
    cluster.settle()
    list(cluster.pods.values())[-1].node = BAD
    return created


def test_new_pods_are_kept_off_a_node_of_repeated_losses():
    cluster = a_job_on_nodes(avoidNodeAfter=2)
    (first,) = lose(cluster)
    assert first.avoid == ()
    assert "NodeAvoided" not in events(cluster)
    cluster.now += 10
    victim = list(cluster.pods.values())[-1]
    victim.rejected = "NodeLost"
    made = cluster.reconcile()
    (second,) = (action for action in made.actions if isinstance(action, CreatePod))
    assert second.avoid == made.avoid == (BAD,)
    (told,) = (event.message for event in made.events if event.reason == "NodeAvoided")
    assert told == (
        "2 losses on node bad within an hour: new pods avoid it until 2026-01-01T01:00:10Z"
    )
    says = condition(made.status, ConditionType.PODS_READY).message
    assert says.endswith("new pods avoid bad")
    cluster.settle()
    assert cluster.trains
    assert len(cluster.members) == 2
    assert [entry.node for entry in cluster.job.status.offences] == [BAD]


@pytest.mark.parametrize("how", ["suspended", "completed"])
def test_a_job_that_holds_no_pods_forgets_its_nodes_as_others_do(how):
    cluster = a_job_on_nodes()
    lose(cluster)
    if how == "suspended":
        cluster.set_spec(suspend=True)
    else:
        cluster.finish()
    cluster.settle()
    assert [entry.node for entry in cluster.job.status.offences] == [BAD]
    cluster.now += 3600
    cluster.settle()
    assert cluster.job.status.offences == ()


def test_a_silent_member_is_an_offence_of_its_node():
    cluster = a_job_on_nodes()
    list(cluster.pods.values())[-1].silent = True
    cluster.pass_time(horizon=60)
    (entry,) = cluster.job.status.offences
    assert (entry.node, len(entry.at)) == (BAD, 1)


def test_pods_are_kept_off_a_node_on_which_trainers_give_up_for_a_broken_device():
    cluster = a_job_on_nodes(avoidNodeAfter=3)
    for number in range(3):
        victim = list(cluster.pods.values())[-1]
        failure = {"incarnation": f"i{victim.starts}", "cause": "Infrastructure"}
        victim.failure = failure | {"round": victim.round, "message": "uncorrectable ECC error"}
        cluster.kill(victim, code=1)
        cluster.reconcile()
        assert ("NodeAvoided" in events(cluster)) == (number == 2)
        cluster.pass_time(horizon=600)
        assert cluster.trains
        list(cluster.pods.values())[-1].node = BAD
    assert cluster.job.status.failures.count == 0


@pytest.mark.parametrize("policy", [{"avoidNodeAfter": 0}, {"avoidNodeAfter": 9}])
def test_no_node_is_avoided_for_less(policy):
    cluster = a_job_on_nodes(**policy)
    for _ in range(4):
        (created,) = lose(cluster)
        assert created.avoid == ()
        cluster.now += 10


def test_a_job_that_trains_and_wants_more_than_there_is_goes_on_avoiding():
    cluster = a_job_on_nodes(avoidNodeAfter=1)
    cluster.capacity = 1
    lose(cluster)
    told = []
    for _ in range(20):
        cluster.now += 60
        cluster.reconcile()
        told += events(cluster)
        cluster.settle()
    assert "PodGivenBack" in told
    assert "NodesAllowed" not in told
    assert [entry.node for entry in cluster.job.status.offences] == [BAD]
    assert (cluster.trains, len(cluster.members)) == (True, 1)


@pytest.mark.parametrize(
    ("pods", "capacity"),
    [
        pytest.param({"min": 2, "max": 4}, 1, id="fewer than the smallest size"),
        pytest.param({"min": 1, "max": 4}, 0, id="none at all"),
    ],
)
def test_when_no_other_node_has_room_to_train_none_is_avoided_any_more(pods, capacity):
    cluster = a_job_on_nodes(pods=pods, avoidNodeAfter=1)
    cluster.capacity = capacity
    if not capacity:
        next(iter(cluster.pods.values())).rejected = "NodeLost"
    assert all(BAD in created.avoid for created in lose(cluster))
    told = []
    for _ in range(20):
        cluster.now += 60
        cluster.reconcile()
        told += events(cluster)
        cluster.settle()
    assert told.count("NodesAllowed") == 1
    assert cluster.job.status.offences == ()
    cluster.capacity = 2
    cluster.pass_time()
    assert len(cluster.members) == 2


def test_a_pod_that_tolerates_everything_is_not_put_back_on_a_node_that_is_to_go():
    cluster = a_cluster(settled=False)
    cluster.reconcile()
    (starter,) = cluster.pods.values()
    starter.node, starter.notice = BAD, "node bad has the taint x"
    made = cluster.reconcile()
    assert [getattr(action, "avoid", None) for action in made.actions] == [None, (BAD,)]
