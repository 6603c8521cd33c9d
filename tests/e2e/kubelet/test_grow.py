"""The straight path: apply, grow from 1 pod over 2 to 4 as the batch asks, finish, Completed."""

from typing import Any

import pytest

from concertina_operator.cluster import paths
from tests.e2e.kubelet.growth import course, losses, watch_growth
from tests.e2e.kubelet.operators import USER
from tests.e2e.kubelet.runs import applied
from tests.e2e.records import samples_in_order
from tests.e2e.runs import started
from tests.tasks import job_document

SIZES = (1, 2, 4)
ACCUMULATION = 2
SLOW_SECONDS = 4.0
STEPS_PER_STAGE = 20
"""Times SLOW_SECONDS: how long pods may take to start."""
LOSS_BOUND = 1e-5
"""Sums of floats in another order, over all steps of the run."""


def document() -> dict[str, Any]:
    """Batches of 4, 8 and 16 samples are meant for 1, 2 and 4 pods."""
    to_8 = 16
    to_16 = to_8 + 8 * STEPS_PER_STAGE
    stages = [{"samples": to_8, "batch": 8}, {"samples": to_16, "batch": 16}]
    return job_document(
        model="tests.e2e.tasks:Patient",
        config={"accumulation": ACCUMULATION, "slow_seconds": SLOW_SECONDS, "layers": 2},
        samples=to_16 + 16 * STEPS_PER_STAGE,
        batch={
            "microBatchSize": 2,
            "initial": 4,
            "max": 16,
            "maxAccumulation": ACCUMULATION,
            "rule": {"name": "Ramp", "stages": stages},
        },
        pods={"min": 1, "max": 4, "allowed": list(SIZES)},
        scaling={"scaleUpCooldownSeconds": 0},
    )


@pytest.fixture(scope="module")
def grown(node_cluster, operator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grown") / "run"
    with applied(node_cluster, operator, folder, document()) as run:
        yield watch_growth(run, SIZES)


def test_the_pods_follow_the_batch(grown):
    seen = list(dict.fromkeys(row["world_size"] for row in grown.run.steps()))
    assert seen == list(SIZES)
    assert grown.run.status()["resizes"] == 2
    assert [len(found) for found in grown.identities.values()] == list(SIZES)


def test_the_processes_of_surviving_pods_stay_the_same(grown):
    assert grown.survivors_stayed()


def test_completes_with_all_samples(grown):
    status, last = grown.run.status(), grown.run.steps()[-1]
    assert status["progress"]["samples"] == last["samples"] == document()["spec"]["samples"]
    assert status["completionTime"]
    assert not grown.run.holds("Failed")
    assert "Completed" in grown.run.kubectl("get", "atj", grown.run.name)


def test_pods_end_well_and_never_restart(grown):
    assert sorted(grown.pods) == [f"{grown.run.name}-{number}" for number in range(4)]
    for pod in grown.pods.values():
        (container,) = pod["status"]["containerStatuses"]
        assert container["restartCount"] == 0
        assert container["state"]["terminated"]["exitCode"] == 0


@pytest.mark.matrix
def test_trains_like_concertina_run_of_the_same_manifest(grown, tmp_path):
    with started(tmp_path / "run", document()) as local:
        assert local.end() == 0, local.account()
    assert grown.run.discarded() == []
    there, here = grown.run.steps(), local.steps()
    assert samples_in_order(there)
    assert course(there) == course(here)
    assert losses(there) == pytest.approx(losses(here), abs=LOSS_BOUND)


def test_what_was_decided_is_told_as_events(grown):
    events = grown.run.api.list(paths.events(grown.run.namespace))
    reasons = {event["reason"] for event in events if event["regarding"]["name"] == grown.run.name}
    assert {"PodsCreated", "Completed"} <= reasons


def test_operator_and_trainers_were_refused_nothing(grown, node_cluster):
    trainer = f"system:serviceaccount:{grown.run.namespace}:default"
    audited = [
        event
        for event in node_cluster.audit_events()
        if event["user"].get("username") in (USER, trainer)
    ]
    assert {event["user"]["username"] for event in audited} == {USER, trainer}
    refused = [event for event in audited if event.get("responseStatus", {}).get("code") == 403]
    assert refused == []
