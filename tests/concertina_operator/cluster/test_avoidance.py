import pytest

from concertina_operator.cluster.avoidance import kept_off

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
ZONE = {"key": "zone", "operator": "In", "values": ["a"]}
OFF = [
    {"key": "metadata.name", "operator": "NotIn", "values": ["n1"]},
    {"key": "metadata.name", "operator": "NotIn", "values": ["n2"]},
]


def required(*terms):
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}


@pytest.mark.parametrize(
    ("affinity", "want"),
    [
        pytest.param(None, required({"matchFields": OFF}), id="no affinity"),
        pytest.param({}, required({"matchFields": OFF}), id="an empty one"),
        pytest.param(
            {"podAffinity": {"x": 1}},
            {"podAffinity": {"x": 1}} | required({"matchFields": OFF}),
            id="between pods",
        ),
        pytest.param(
            required({"matchExpressions": [ZONE]}, {"matchFields": [ZONE]}),
            required(
                {"matchExpressions": [ZONE], "matchFields": OFF}, {"matchFields": [ZONE, *OFF]}
            ),
            id="each of several terms, of which one suffices",
        ),
        pytest.param(required({}), required({}), id="a term that matches no node"),
        pytest.param(
            {"nodeAffinity": {"preferred": []}},
            {"nodeAffinity": {"preferred": [], **required({"matchFields": OFF})["nodeAffinity"]}},
            id="only preferences",
        ),
        pytest.param("x", "x", id="not a map"),
        pytest.param({"nodeAffinity": []}, {"nodeAffinity": []}, id="malformed"),
        pytest.param(
            {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": "x"}}},
            {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": "x"}}},
            id="malformed terms",
        ),
        pytest.param(required("x"), required("x"), id="a malformed term"),
    ],
)
def test_nodes_are_left_out_beside_what_the_template_says(affinity, want):
    assert kept_off(affinity, ["n1", "n2"]) == want


def test_without_nodes_nothing_changes():
    assert kept_off(None, []) is None
