"""Membership and report: what operator and trainer send each other."""

import pytest
from pydantic import ValidationError

from concertina_api.v1alpha1 import (
    BatchSizeRequest,
    Member,
    Membership,
    Progress,
    Report,
    TrainingMembership,
    TrainingReport,
)


def member(name, **changes):
    values = {
        "pod": name,
        "uid": f"u-{name}",
        "incarnation": "i",
        "host": "10.0.0.1",
        "port": 29500,
    }
    return Member(**{**values, **changes})


def test_workers_are_ranked_by_member_and_local_rank():
    membership = Membership(round=3, members=(member("a", workers=2), member("b")))

    assert membership.workers() == ("u-a.i/0", "u-a.i/1", "u-b.i/0")
    assert membership.world_size == 3


def test_a_pod_is_listed_once():
    with pytest.raises(ValidationError, match="listed twice in round 3"):
        Membership(round=3, members=(member("a"),), leaving=(member("a"),))


def test_the_same_pod_may_come_back_in_another_incarnation():
    lost, new = member("a"), member("a", incarnation="j")

    assert Membership(round=4, members=(new,), lost=(lost,)).workers() == ("u-a.j/0",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("pod", "Not_A_Name", id="pod"),
        pytest.param("port", 0, id="port"),
        pytest.param("host", "a b", id="host"),
        pytest.param("uid", "x" * 65, id="uid"),
        pytest.param("workers", 0, id="workers"),
    ],
)
def test_fields_of_a_member_are_bounded(field, value):
    with pytest.raises(ValidationError):
        member("a", **{field: value})


@pytest.mark.parametrize(
    ("model", "values"),
    [
        pytest.param(
            BatchSizeRequest, {"sequence": 1, "requested": 2**24 + 1, "effective": 8, "reason": ""},
            id="absurd batch",
        ),
        pytest.param(
            BatchSizeRequest, {"sequence": -1, "requested": 8, "effective": 8, "reason": ""},
            id="negative sequence",
        ),
        pytest.param(
            BatchSizeRequest,
            {"sequence": 1, "requested": 8, "effective": 8, "reason": "x" * 513},
            id="long reason",
        ),
        pytest.param(
            Progress, {"step": 1, "samples": 8, "loss": float("nan")}, id="loss that is no number"
        ),
    ],
)  # fmt: skip
def test_a_report_is_bounded(model, values):
    with pytest.raises(ValidationError):
        model(**values)


def test_objects_survive_the_wire():
    membership = TrainingMembership(spec=Membership(round=2, members=(member("a"),)))
    report = TrainingReport(spec=Report(pod="a", uid="u", incarnation="i", port=5000))

    for thing in (membership, report):
        text = thing.model_dump_json(by_alias=True, exclude_none=True)
        assert type(thing).model_validate_json(text) == thing
