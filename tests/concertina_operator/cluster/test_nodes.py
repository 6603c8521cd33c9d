"""Nodes and pods about to be taken away, and nodes that lose pods, under the real scheduler."""

import pytest

from concertina_operator.cluster.pod import AVOIDS_ANNOTATION
from concertina_operator.cluster.rights import node_rights
from tests.cluster.api import wait_for
from tests.concertina_operator.cluster.installed import apply_all
from tests.concertina_operator.cluster.machines import add_node, placed_on
from tests.concertina_operator.cluster.trainers import Trainers, a_trained_job

SILENT = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
"""Taints of nodes that nobody runs, after a while."""


@pytest.fixture
def nodes(api, namespace):
    """Three nodes of one GPU each; the labels by which pods ask for one of them."""
    labels = {"of": namespace}
    names = [f"{namespace}-{letter}" for letter in "abc"]
    for name in names:
        add_node(api, name, gpus=1, **labels)
    yield labels
    for name in names:
        api.delete(f"/api/v1/nodes/{name}")


@pytest.fixture
def trainers(api, namespace, nodes):
    """A job that trains on two of the nodes as soon as somebody starts an operator."""
    tolerations = [{"key": key, "operator": "Exists"} for key in SILENT]
    template = {"spec": placed_on(nodes, tolerations=tolerations)}
    trainers = Trainers(api=api, namespace=namespace)
    job = a_trained_job(
        pods={"min": 1, "max": 2, "template": template},
        batch={"microBatchSize": 8, "initial": 64, "max": 64, "maxAccumulation": 4},
        failurePolicy={"avoidNodeAfter": 1},
    )
    trainers.imagined.effective = 64
    trainers.create(job)
    return trainers


def node_of(trainers, pod):
    return trainers.pods()[pod]["spec"].get("nodeName")


def check_leaves(trainers, pod, uid):
    """A round begins without the pod before it is told to end, and another takes its place."""
    trainers.until(lambda: len(trainers.imagined.members) == 1, "no round without the pod")
    left = trainers.imagined.membership
    assert [member.pod for member in left.leaving] == [pod]
    assert "deletionTimestamp" not in trainers.pods()[pod]["metadata"]
    trainers.until(
        lambda: len(trainers.imagined.members) == 2 and trainers.imagined.trains,
        "the pod is not replaced",
    )
    assert uid not in {member.uid for member in trainers.imagined.membership.members}
    assert trainers.membership()["spec"].get("lost", []) == []
    assert trainers.status()["failures"]["count"] == 0
    wait_for(lambda: "NoticeGiven" in trainers.events(), lambda: f"{trainers.events()}")


def test_a_pod_leaves_a_node_that_is_about_to_be_taken_away(start, api, namespace, trainers):
    apply_all(api, node_rights(namespace=namespace, jobs_in=namespace))
    start("operator", "--watch-nodes", "--notice-taint", "example.com/going")
    trainers.until_trained_by("tiny-lm-0", "tiny-lm-1")
    node = node_of(trainers, "tiny-lm-1")
    uid = trainers.pods()["tiny-lm-1"]["metadata"]["uid"]
    taint = {"key": "example.com/going", "effect": "NoSchedule"}
    api.patch(f"/api/v1/nodes/{node}", {"spec": {"taints": [taint]}})

    check_leaves(trainers, "tiny-lm-1", uid)
    assert node not in {node_of(trainers, pod) for pod in trainers.imagined.members}


def test_a_pod_that_is_about_to_be_disrupted_leaves(start, api, namespace, trainers):
    start("operator")
    trainers.until_trained_by("tiny-lm-0", "tiny-lm-1")
    uid = trainers.pods()["tiny-lm-1"]["metadata"]["uid"]
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    api.call(
        "PATCH",
        f"/api/v1/namespaces/{namespace}/pods/tiny-lm-1/status",
        {"status": {"conditions": [condition]}},
        content_type="application/strategic-merge-patch+json",
    )

    check_leaves(trainers, "tiny-lm-1", uid)


def test_an_operator_that_may_not_read_nodes_serves_jobs_all_the_same(start, trainers):
    operator = start("operator", "--watch-nodes")
    trainers.until_trained_by("tiny-lm-0", "tiny-lm-1")
    wait_for(
        lambda: "/api/v1/nodes: 403" in operator.log.read_text(), lambda: operator.log.read_text()
    )
    assert operator.ask("/readyz") == operator.ask("/healthz") == "ok"


def test_a_new_pod_is_kept_off_a_node_that_lost_one(start, trainers):
    start("operator")
    trainers.until_trained_by("tiny-lm-0", "tiny-lm-1")
    node = node_of(trainers, "tiny-lm-1")
    trainers.imagined.pods["tiny-lm-1"].rejected = "the node would not have it any more"

    def replacement():
        found = trainers.pods().values()
        return next(
            (pod for pod in found if pod["metadata"]["annotations"].get(AVOIDS_ANNOTATION)), None
        )

    pod = trainers.until(replacement, "no pod is kept off any node")
    assert pod["metadata"]["annotations"][AVOIDS_ANNOTATION] == node
    trainers.until(
        lambda: len(trainers.imagined.members) == 2 and trainers.imagined.trains,
        "the pod is not replaced",
    )
    assert node not in {node_of(trainers, name) for name in trainers.imagined.members}
    assert [entry["node"] for entry in trainers.status()["offences"]] == [node]
    wait_for(lambda: "NodeAvoided" in trainers.events(), lambda: f"{trainers.events()}")
