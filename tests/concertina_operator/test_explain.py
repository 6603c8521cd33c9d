"""What a request would lead to."""

from typing import Any

import pytest

from concertina_api.errors import InvalidJob
from concertina_operator.explain import explain_plan, explain_request, explain_sizes
from concertina_operator.observed import Observed
from concertina_operator.plan import plan
from tests.concertina_operator.factories import a_job, a_pod, a_report, a_spec, at


def test_each_batch_of_the_grid_has_a_size() -> None:
    _, *rows = explain_sizes(a_spec())
    assert [row.split() for row in rows[:3]] == [
        ["32", "4", "1", "1", "4"],
        ["64", "8", "2", "2", "4"],
        ["128", "16", "4", "4", "4"],
    ]
    assert rows[4].split()[:5] == ["512", "64", "4", "4", "16"]
    assert rows[4].endswith("would need 16 pods, max is 4")


def test_a_request_grows_the_job_and_says_why() -> None:
    lines = list(explain_request(a_job(), requested=64))
    assert lines[0] == "now: 1 pod(s), batch 32"
    assert lines[2] == (
        "next step: global batch 64 samples = 8 micro-batches x 8, 8 per worker on 1 worker(s)"
    )
    assert "8 micro-batches over 1 worker > maxAccumulation 4" in lines[3]
    assert "then: create pod tiny-lm-1" in lines
    assert "then: publish round 2 (Run): tiny-lm-0, tiny-lm-1" in lines
    assert lines[-1].endswith("8 micro-batches x 8, 4 per worker on 2 worker(s)")


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"scaling": {"mode": "Off"}}, id="off"),
        pytest.param({"scaling": {"mode": "Recommend"}}, id="recommend"),
        pytest.param({"suspend": True}, id="suspended"),
        pytest.param({"activeDeadlineSeconds": 60}, id="deadline"),
    ],
)
def test_the_explanation_is_of_a_running_job(spec: dict[str, Any]) -> None:
    want = list(explain_request(a_job(), requested=64))
    assert list(explain_request(a_job(a_spec(**spec)), requested=64)) == want


def test_a_request_that_fits_changes_no_pod() -> None:
    lines = list(explain_request(a_job(), requested=32))
    assert not [line for line in lines if line.startswith("then")]


@pytest.mark.parametrize(
    ("requested", "want"),
    [
        pytest.param(1024, "runs 512: max is 512", id="above-max"),
        pytest.param(100, "runs 64: the grid is initial 32 x 2^k up to max", id="off-the-grid"),
        pytest.param(8, "runs 32: the batch never falls below initial", id="below-initial"),
    ],
)
def test_what_runs_differs_from_the_request_for_a_reason(requested: int, want: str) -> None:
    lines = list(explain_request(a_job(), requested=requested))
    assert lines[1] == f"request: {requested} samples, {want}"


def test_a_limit_is_named() -> None:
    lines = list(explain_request(a_job(), requested=512, granted=1))
    assert any("granted" in line for line in lines)
    assert lines[-1].endswith("on 1 worker(s)")


def test_nobody_trains_without_a_grant() -> None:
    assert list(explain_request(a_job(), requested=64, granted=0))[-1] == "result: nobody trains"


def test_a_request_is_at_least_one_sample() -> None:
    with pytest.raises(InvalidJob, match="request 0 is below 1"):
        list(explain_request(a_job(), requested=0))


def test_one_plan_is_told_with_its_reason_its_actions_and_its_events() -> None:
    observed = Observed(job=a_job(), pods=(a_pod(0),), reports={"tiny-lm-0": a_report(0)})
    because, *rest = explain_plan(plan(observed, at(10)))
    assert because.startswith("because: ")
    assert "then: publish round 1 (Run): tiny-lm-0" in rest
    assert any(line.startswith("says: RoundPublished (Normal): ") for line in rest)
    assert rest[-1].startswith("again: when something changes, at the latest in ")


def test_a_plan_without_actions_says_so() -> None:
    off = a_job(a_spec(scaling={"mode": "Off"}))
    lines = list(explain_plan(plan(Observed(job=off), at(0))))
    assert lines == ["because: mode Off: nothing is planned", "then: nothing"]
