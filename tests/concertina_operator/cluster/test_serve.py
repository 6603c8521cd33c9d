import signal

import pytest

from tests.cluster.api import wait_for
from tests.concertina_operator.cluster.processes import by_leadership
from tests.concertina_operator.cluster.trainers import Trainers, a_trained_job


def lease(api, namespace):
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/concertina-operator"
    return (api.find(path) or {}).get("spec", {})


def test_another_replica_takes_over_when_the_leader_is_killed_and_does_nothing_twice(
    start, api, namespace
):
    leader, standby = by_leadership(start("first"), start("second"))
    trainers = Trainers(api=api, namespace=namespace)
    trainers.create(a_trained_job())
    trainers.until_trained_by("tiny-lm-0")
    assert "concertina_operator_leader 1.0" in leader.ask("/metrics")
    assert "concertina_operator_leader 0.0" in standby.ask("/metrics")
    assert standby.ask("/readyz") == standby.ask("/healthz") == "ok"
    before = trainers.pods()["tiny-lm-0"]["metadata"]["uid"]

    leader.process.kill()
    trainers.imagined.ask(64)
    trainers.until_trained_by("tiny-lm-0", "tiny-lm-1")
    assert standby.leads()
    assert trainers.pods()["tiny-lm-0"]["metadata"]["uid"] == before
    assert lease(api, namespace)["leaseTransitions"] == 1
    assert standby.ask("/healthz") == "ok"
    metrics = standby.ask("/metrics")
    assert "concertina_operator_pods_created_total 1.0" in metrics
    assert 'concertina_operator_reconciles_total{result="Error"}' not in metrics


def versions(trainers):
    """What any write to the job's pods and membership would change."""
    documents = [*trainers.pods().values(), trainers.membership()]
    return {
        document["metadata"]["uid"]: document["metadata"]["resourceVersion"]
        for document in documents
    }


@pytest.mark.matrix
def test_a_leader_that_wakes_up_after_its_time_writes_nothing_and_ends(start, api, namespace):
    leader, standby = by_leadership(start("first"), start("second"))
    trainers = Trainers(api=api, namespace=namespace)
    trainers.create(a_trained_job())
    trainers.until_trained_by("tiny-lm-0")

    leader.process.send_signal(signal.SIGSTOP)
    trainers.imagined.ask(64)
    trainers.until_trained_by("tiny-lm-0", "tiny-lm-1")
    assert standby.leads()
    before = versions(trainers)
    leader.process.send_signal(signal.SIGCONT)
    assert leader.process.wait(60) != 0
    assert "the lease is lost" in leader.log.read_text()
    assert versions(trainers) == before
    assert lease(api, namespace)["leaseTransitions"] == 1
    assert standby.ask("/healthz") == "ok"


def test_a_leader_that_is_told_to_end_gives_up_the_lease_and_ends_well(start, api, namespace):
    replica = start("only")
    by_leadership(replica)
    wait_for(lambda: lease(api, namespace).get("holderIdentity"), lambda: "no holder")
    replica.process.send_signal(signal.SIGTERM)
    assert replica.process.wait(30) == 0
    assert lease(api, namespace)["holderIdentity"] == ""
    assert "Traceback" not in replica.log.read_text()


def test_a_standby_that_is_told_to_end_ends_well_and_leaves_the_lease_alone(start, api, namespace):
    leader = start("leader")
    by_leadership(leader)
    standby = start("standby")
    standby.port()
    holder = lease(api, namespace)["holderIdentity"]
    standby.process.send_signal(signal.SIGTERM)
    assert standby.process.wait(30) == 0
    assert lease(api, namespace)["holderIdentity"] == holder
