"""How objects with every field are made, and losses found."""

import pytest

from concertina_operator.cluster.crd import custom_resource_definitions
from tests.chart.stored import complete, complete_jobs, fields, lost


def test_the_jobs_together_have_every_field():
    (jobs, *_) = custom_resource_definitions()
    (version,) = jobs["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]

    found = set().union(*(fields(job["spec"]) for job in complete_jobs(jobs)))
    assert found == fields(complete(schema))


@pytest.mark.parametrize(
    ("after", "want"),
    [
        pytest.param({"a": {"b": 1}, "c": [1]}, [], id="same"),
        pytest.param({"a": {"b": 1, "n": 0}, "c": [1]}, [], id="more"),
        pytest.param({"a": {}, "c": [1]}, [".a.b"], id="field"),
        pytest.param({"a": {"b": 2}, "c": [1]}, [".a.b: 1 is 2"], id="value"),
        pytest.param({"a": {"b": 1}, "c": []}, [".c: [1] is []"], id="entry"),
    ],
)
def test_what_is_lost_is_named(after, want):
    assert lost({"a": {"b": 1}, "c": [1]}, after) == want
