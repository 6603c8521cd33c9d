import pytest

from concertina_api.v1alpha1 import Membership, PodPhase
from concertina_operator.acceptance import Standing, accept_report, accept_reports
from concertina_operator.observed import Observed, Phase
from tests.concertina_operator.factories import (
    a_job,
    a_membership,
    a_pod,
    a_report,
    a_request,
)


def accepted(report, *, pod=None, number=3, leader=0):
    membership = a_membership(number, leader, 1 - leader) if number else None
    observed = Observed(job=a_job(), membership=membership)
    return accept_report(report, pod=pod or a_pod(), observed=observed)


def test_a_fitting_report_counts_as_it_is():
    report = a_report(round=3, request=a_request(4, effective=64))
    assert accepted(report) == (report, ())


def test_a_refused_request_does_not_take_the_report_with_it():
    report = a_report(round=3, request=a_request(8, effective=1024))
    without = report.model_copy(update={"request": None})
    assert accepted(report) == (without, ("request 8 runs 1024 samples, above max 512",))


@pytest.mark.parametrize(
    ("report", "want_refusal"),
    [
        pytest.param(a_report(1), "it is of tiny-lm-1", id="another pod"),
        pytest.param(a_report(uid="older"), "it is of tiny-lm-0 (older)", id="an earlier pod"),
        pytest.param(a_report(round=4), "round 4 is above the newest round 3", id="future round"),
        pytest.param(
            a_report(progress={"step": 1, "samples": 1, "round": 9}),
            "progress.round 9",
            id="progress in a future round",
        ),
        pytest.param(
            a_report(failure={"round": 9, "incarnation": "i0", "cause": "Signal"}),
            "failure.round 9",
            id="failure in a future round",
        ),
        pytest.param(
            a_report(workers=64), "workers is 64, but workersPerPod is 1", id="other workers"
        ),
        pytest.param(
            a_report(host="10.9.9.9"),
            "host 10.9.9.9 is not the pod's address 10.0.0.0, fd00::",
            id="somebody else's address",
        ),
    ],
)
def test_a_report_that_cannot_be_true_does_not_count(report, want_refusal):
    got, refusals = accepted(report, pod=a_pod(addresses=("10.0.0.0", "fd00::")))
    assert got is None
    assert [want_refusal in refusal for refusal in refusals] == [True]


def test_a_pod_that_offers_no_store_may_be_vague_about_itself():
    report = a_report(port=None, workers=2, host="127.0.0.1", phase=PodPhase.FAILED)
    assert accepted(report, pod=a_pod(addresses=("10.0.0.0",))) == (report, ())


def test_a_lost_membership_is_learned_from_reports():
    report = a_report(round=41)
    assert accepted(report, number=0) == (report, ())
    got, refusals = accepted(a_report(round=2**40), number=0)
    assert (got, len(refusals)) == (None, 1)


@pytest.mark.parametrize(("leader", "want_heard"), [(0, False), (1, True)])
def test_only_its_leader_speaks_for_the_present_round(leader, want_heard):
    progress = {"step": 5, "samples": 40, "round": 3}
    resize = {"round": 3, "worldSizeBefore": 1, "worldSize": 2, "step": 4, "pauseSeconds": 0.3}
    report = a_report(1, round=3, progress=progress, acknowledged=resize)
    observed = Observed(
        job=a_job(),
        membership=a_membership(3, leader, 1 - leader),
        pods=(a_pod(0), a_pod(1)),
        reports={"tiny-lm-1": report},
    )
    (_, standing), refusals = accept_reports(observed)
    heard = (standing.report.progress, standing.report.acknowledged)
    assert heard == ((report.progress, report.acknowledged) if want_heard else (None, None))
    rule = "of round 3, which tiny-lm-0 leads"
    want = [] if want_heard else [f"acknowledged {rule}", f"progress {rule}"]
    assert list(refusals) == [f"report of tiny-lm-1: {refusal}" for refusal in want]


def test_each_pod_stands_with_the_report_of_its_own_uid():
    observed = Observed(
        job=a_job(),
        membership=Membership(round=3),
        reports={
            "tiny-lm-0": a_report(),
            "tiny-lm-1": a_report(1, uid="earlier"),
            "tiny-lm-2": a_report(2, round=7),
            "tiny-lm-9": a_report(9),
        },
        pods=(a_pod(), a_pod(1), a_pod(2)),
    )
    standings, refusals = accept_reports(observed)
    assert [standing.report for standing in standings] == [a_report(), None, None]
    assert refusals == ("report of tiny-lm-2: round 7 is above the newest round 3",)


@pytest.mark.parametrize(
    ("pod", "report", "want_warm"),
    [
        pytest.param({}, {}, True, id="warm, whatever its Ready condition says"),
        pytest.param({"ready": True}, {"phase": PodPhase.STARTING}, False, id="ready but cold"),
        pytest.param({}, {"phase": PodPhase.TRAINING}, True, id="training"),
        pytest.param({}, {"phase": PodPhase.WAITING}, True, id="waiting with its state"),
        pytest.param({}, {"port": None}, False, id="no store to offer"),
        pytest.param({}, {"leaving": True}, False, id="told to end"),
        pytest.param({"deleting": True}, {}, False, id="being deleted"),
        pytest.param({"exit_code": 0}, {}, False, id="ended"),
        pytest.param({"phase": Phase.FAILED}, {}, False, id="failed without an exit code"),
        pytest.param({}, {"phase": PodPhase.LEFT}, False, id="left"),
    ],
)
def test_a_pod_is_warm_by_its_report_alone(pod, report, want_warm):
    assert Standing(pod=a_pod(**pod), report=a_report(**report)).is_warm is want_warm


@pytest.mark.parametrize(
    ("oldest", "newest", "want_compatible"), [(1, 1, True), (1, 3, True), (2, 3, False)]
)
def test_a_pod_says_which_protocols_it_speaks(oldest, newest, want_compatible):
    report = a_report(protocols={"oldest": oldest, "newest": newest})
    assert Standing(pod=a_pod(), report=report).is_compatible is want_compatible
