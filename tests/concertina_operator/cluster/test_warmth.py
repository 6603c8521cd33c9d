"""A pod is admitted by what its trainer reports, whatever Kubernetes says of it."""

from concertina_api.v1alpha1 import PodPhase
from tests.concertina_operator.cluster.trainers import a_trained_job


def test_a_pod_that_is_ready_but_cold_is_in_no_round_and_joins_once_it_is_warm(trainers):
    name = trainers.job
    second = f"{name}-1"
    trainers.held.add(second)
    trainers.create(a_trained_job(name))
    trainers.until_trained_by(f"{name}-0")
    trainers.imagined.ask(64)
    trainers.until(lambda: second in trainers.pods(), "no second pod")

    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    path = f"/api/v1/namespaces/{trainers.namespace}/pods/{second}/status"
    trainers.api.patch(path, {"status": ready})
    trainers.until(lambda: trainers.status()["pods"]["running"] == 2, "the pod is not seen")
    assert trainers.status()["pods"]["ready"] == 1
    assert names_in(trainers) == [f"{name}-0"]

    trainers.imagined.pods[second].phase = PodPhase.STARTING
    until_heard(trainers)
    assert names_in(trainers) == [f"{name}-0"]
    assert trainers.condition("RequestSatisfied")["reason"] == "WaitingForPods"

    trainers.imagined.pods[second].silent = False
    trainers.until_trained_by(f"{name}-0", second)


def names_in(trainers):
    """The pods that the rounds of the job have named so far."""
    spec = trainers.membership()["spec"]
    assert spec["round"] == 1
    return [member["pod"] for member in spec["members"]]


def until_heard(trainers):
    """Turns until the operator has acted on a report that is newer than all others."""
    trainers.turn()
    trainers.imagined.ask(64)
    sequence = trainers.imagined.sequence
    trainers.until(lambda: trainers.status()["batch"]["sequence"] == sequence, "not heard")
