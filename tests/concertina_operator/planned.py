"""A job on the imagined cluster, and what its last plan said of it."""

from concertina_api.v1alpha1 import ConditionType
from concertina_operator.conditions import condition
from tests.concertina_operator.factories import a_job, a_spec
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
