import pytest

from concertina_api.v1alpha1 import BatchStatus
from concertina_operator.requested import MAX_FIRST_SEQUENCE, MAX_STEPS, counted_request
from tests.concertina_operator.factories import (
    a_member,
    a_membership,
    a_report,
    a_request,
    a_spec,
)

RAMP = {"rule": {"name": "Ramp", "stages": [{"samples": 8, "batch": 512}]}}


def counted(request, *, index=0, number=3, batch=None, sequence=7, effective=64, **membership):
    return counted_request(
        a_report(index, round=number, request=request),
        membership=a_membership(3, 0, 1, **membership),
        spec=a_spec(batch=batch),
        before=BatchStatus(sequence=sequence, effective=effective),
        accepted=sequence,
    )


@pytest.mark.parametrize(
    ("request_of_leader", "before"),
    [
        pytest.param(a_request(8, effective=128), {}, id="doubled"),
        pytest.param(a_request(10, effective=512), {}, id="several decisions, one report"),
        pytest.param(a_request(8, effective=32), {}, id="smaller, from a checkpoint"),
        pytest.param(a_request(7, requested=99, reason="r"), {}, id="the same, told anew"),
        pytest.param(a_request(8, requested=4099, effective=128), {}, id="wants more than max"),
        pytest.param(a_request(300, effective=512), {"sequence": 0}, id="the first one"),
        pytest.param(a_request(8, effective=512), {"batch": RAMP}, id="the user's own stages"),
        pytest.param(
            a_request(8, effective=128),
            {"batch": {"initial": 64}, "effective": 32},
            id="from a larger initial batch",
        ),
    ],
)
def test_what_the_leader_asks_by_its_rule_counts(request_of_leader, before):
    assert counted(request_of_leader, **before) == (request_of_leader, None)


@pytest.mark.parametrize(
    ("request_of_leader", "before", "want_refusal"),
    [
        pytest.param(
            a_request(8, effective=1024),
            {},
            "request 8 runs 1024 samples, above max 512",
            id="above max",
        ),
        pytest.param(
            a_request(8, effective=63),
            {},
            "request 8 runs 63 samples, not a multiple of microBatchSize 8",
            id="not a multiple of m",
        ),
        pytest.param(a_request(6), {}, "request 6 is older than request 7", id="an older one"),
        pytest.param(
            a_request(7, effective=128),
            {},
            "request 7 runs 128 samples, but 64 when it was accepted",
            id="other content under the same number",
        ),
        pytest.param(
            a_request(7 + MAX_STEPS + 1),
            {},
            f"request 136 comes more than {MAX_STEPS} after request 7",
            id="a number that would lock out the next",
        ),
        pytest.param(
            a_request(MAX_FIRST_SEQUENCE + 1),
            {"sequence": 0},
            "request 2147483649 is the first one, with a number above 2147483648",
            id="a first number that would",
        ),
        pytest.param(
            a_request(8, effective=256),
            {},
            "request 8 runs 256 samples, above 64 of request 7 times maxGrowth 2"
            " for each of 1 decisions",
            id="faster than maxGrowth",
        ),
    ],
)
def test_what_no_rule_asks_is_refused(request_of_leader, before, want_refusal):
    assert counted(request_of_leader, **before) == (None, want_refusal)


@pytest.mark.parametrize(
    ("asker", "want_refusal"),
    [
        pytest.param(
            {"index": 1}, "request 8: in round 3, which tiny-lm-0 leads", id="a pod that follows"
        ),
        pytest.param(
            {"index": 1, "members": ()},
            "request 8: in round 3, which nobody leads",
            id="no pod leads",
        ),
        pytest.param({"number": 2}, None, id="the leader, which is not in the round yet"),
        pytest.param(
            {"index": 5, "leaving": (a_member(5),)}, None, id="a former leader, which leaves"
        ),
        pytest.param({"index": 1, "sequence": 8}, None, id="a former leader, which was heard"),
    ],
)
def test_only_the_leader_asks_and_only_in_its_round(asker, want_refusal):
    assert counted(a_request(8, effective=128), **asker) == (None, want_refusal)


def test_nobody_asks_before_the_first_round():
    report = a_report(request=a_request(1))
    nothing = {"spec": a_spec(), "before": BatchStatus(), "accepted": 0}
    assert counted_request(report, membership=None, **nothing) == (
        None,
        "request 1: no round is in force",
    )
