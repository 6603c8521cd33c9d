"""Courses of a job that something outside of it holds up."""

import pytest

from concertina_api.v1alpha1 import ConditionType
from concertina_operator.conditions import condition
from tests.concertina_operator.factories import a_job, a_spec
from tests.concertina_operator.imagined_cluster import FakeCluster

FAULT = 'unknown field "spec.containers[0].imagee"'


def a_cluster(**fields):
    """A job of one pod that has just been created."""
    return FakeCluster(job=a_job(a_spec(batch={"initial": 32})), effective=32, **fields)


def says(cluster, kind):
    return condition(cluster.job.status, ConditionType(kind))


def told(cluster):
    """Reasons of all events while an hour passes."""
    found = []
    for _ in range(36):
        cluster.now += 100
        cluster.act()
        found += [event.reason for event in cluster.reconcile().events]
    return found


def test_a_job_whose_membership_is_somebody_elses_holds_no_pods_and_publishes_nothing():
    cluster = a_cluster()
    cluster.settle()
    assert cluster.trains
    before = cluster.job.status
    cluster.membership, cluster.membership_taken = None, True
    cluster.settle()
    assert (cluster.pods, cluster.membership) == ({}, None)
    events = told(cluster)
    status = cluster.job.status
    assert (status.state, status.round, status.round_at) == (
        "NameTaken",
        before.round,
        before.round_at,
    )
    assert (says(cluster, "PodsReady").status, says(cluster, "PodsReady").reason) == (
        "False",
        "NameTaken",
    )
    assert events == []

    cluster.membership_taken = False
    cluster.settle()
    assert cluster.trains
    assert cluster.membership.round == before.round + 1


def test_without_a_valid_template_a_job_that_has_no_pods_waits_and_gives_none_back():
    cluster = a_cluster(template_fault=FAULT)
    cluster.settle()
    assert told(cluster) == []
    status = cluster.job.status
    assert (status.state, status.retry.count, cluster.pods) == ("TemplateInvalid", 0, {})
    ready = says(cluster, "PodsReady")
    assert (ready.reason, ready.message) == (
        "TemplateInvalid",
        f"0 of 1 pods are members; no pod can be created: {FAULT}",
    )

    cluster.template_fault = ""
    cluster.settle()
    assert cluster.trains


def test_a_job_trains_on_when_its_template_becomes_invalid_and_says_why_it_does_not_grow():
    cluster = a_cluster()
    cluster.settle()
    cluster.template_fault = FAULT
    cluster.ask(64)
    cluster.settle()
    assert (cluster.job.status.state, list(cluster.pods)) == ("Training", ["tiny-lm-0"])
    assert FAULT in says(cluster, "PodsReady").message
    assert "PodsReleased" not in told(cluster)


@pytest.mark.parametrize(
    ("kind", "want"),
    [
        pytest.param("Suspended", "NotSuspended", id="suspended"),
        pytest.param("Completed", "NotCompleted", id="completed"),
        pytest.param("Failed", "NotFailed", id="failed"),
    ],
)
def test_what_has_not_happened_has_the_same_reason_whatever_the_job_does(kind, want):
    cluster = a_cluster()
    cluster.reconcile()
    assert (says(cluster, kind).status, says(cluster, kind).reason) == ("False", want)
    cluster.settle()
    assert (says(cluster, kind).status, says(cluster, kind).reason) == ("False", want)
