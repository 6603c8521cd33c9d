"""A job whose free-form parts are as strange as the API server lets them be, and its neighbours."""

import sys

import pytest

from tests.concertina_operator.cluster.trainers import a_trained_job

MOST_CALLS = 50_000
"""The API server takes 10,000 levels, Python by itself no 1,000."""


@pytest.fixture
def deep_python():
    """The test itself writes and reads the job as JSON."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(MOST_CALLS)
    yield
    sys.setrecursionlimit(limit)


def nested(levels):
    value = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("levels", [4000, pytest.param(9000, marks=pytest.mark.matrix)])
def test_a_job_that_nests_without_end_is_invalid_and_stops_no_other(deep_python, crew, levels):
    deep, other = crew("-deep"), crew("-other")
    deep.create(a_trained_job(deep.job, config=nested(levels)))
    other.create(a_trained_job(other.job))
    other.until_trained_by(f"{other.job}-0")
    deep.until(lambda: "nests deeper" in deep.condition("Ready").get("message", ""), "not invalid")
    assert not deep.pods()
