"""The real scheduler takes a place away for a pod of higher priority: the round goes on without it."""

import pytest

from tests.concertina_operator.cluster.machines import add_node, placed_on
from tests.concertina_operator.cluster.trainers import a_trained_job

NODE, URGENT = "contested", "test-urgent"
PRIORITIES = "/apis/scheduling.k8s.io/v1/priorityclasses"


@pytest.fixture
def node(api):
    """A node of two GPUs."""
    labels = {"node": NODE}
    add_node(api, NODE, gpus=2, **labels)
    yield labels
    api.delete(f"/api/v1/nodes/{NODE}")


@pytest.fixture
def urgent(api):
    """The name of a priority above that of jobs."""
    api.create(PRIORITIES, {"metadata": {"name": URGENT}, "value": 1000})
    yield URGENT
    api.delete(f"{PRIORITIES}/{URGENT}")


def test_a_preempted_pod_leaves_in_order_and_the_others_train_on(trainers, api, node, urgent):
    pods = {"min": 1, "max": 2, "template": {"spec": placed_on(node)}}
    trainers.create(a_trained_job(trainers.job, pods=pods))
    trainers.until_trained_by(f"{trainers.job}-0")
    trainers.imagined.ask(64)
    trainers.until_trained_by(f"{trainers.job}-0", f"{trainers.job}-1")
    before = {name: pod["metadata"]["uid"] for name, pod in trainers.pods().items()}

    path = f"/api/v1/namespaces/{trainers.namespace}/pods"
    rival = {"metadata": {"name": URGENT}, "spec": placed_on(node, priorityClassName=urgent)}
    api.create(path, rival)
    trainers.until(
        lambda: len(trainers.imagined.members) == 1, "no round without the preempted pod"
    )
    trainers.until(
        lambda: "nodeName" in api.get(f"{path}/{URGENT}")["spec"], "the urgent pod has no place"
    )
    trainers.until(
        lambda: trainers.imagined.trains and trainers.status().get("worldSize") == 1,
        "the other does not train",
    )

    (survivor,) = trainers.imagined.members
    assert trainers.pods()[survivor]["metadata"]["uid"] == before[survivor]
    assert trainers.membership()["spec"].get("lost", []) == []
    assert trainers.status()["failures"]["count"] == 0
    trainers.until(
        lambda: "Insufficient" in trainers.condition("PodsReady").get("message", ""),
        "the scheduler's words about the second pod are not told",
    )
    api.delete(f"{path}/{URGENT}", gracePeriodSeconds=0)
    trainers.until(lambda: len(trainers.imagined.members) == 2, "the place is not taken again")
