from datetime import UTC, datetime

import pytest

from concertina_api.errors import InvalidJob
from concertina_operator.cluster.facts import (
    MAX_REPORT_BYTES,
    HeardReport,
    observed_from,
    read_job,
    read_membership,
    read_report,
)
from concertina_operator.cluster.pod_facts import read_pod
from concertina_operator.cluster.store import Key
from concertina_operator.cluster.template import template_hash
from tests.concertina_operator.cluster.jobs import a_job

UID = "job-uid"


def a_stored_job(**status):
    job = a_job()
    metadata = {"namespace": "ml", "uid": UID, "generation": 1, "resourceVersion": "7"}
    return {**job, "metadata": job["metadata"] | metadata, "status": status}


def a_pod(index=0, *, owner=UID, status=None, **metadata):
    return {
        "metadata": {
            "name": f"tiny-lm-{index}",
            "namespace": "ml",
            "uid": f"uid-{index}",
            "resourceVersion": "8",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"concertina.dev/job": "tiny-lm"},
            "annotations": {"concertina.dev/trainer": "trainer"},
            "ownerReferences": [{"name": "tiny-lm", "uid": owner, "controller": True}],
        }
        | metadata,
        "spec": {"containers": [{"name": "sidecar"}, {"name": "trainer"}]},
        "status": {"phase": "Running"} if status is None else status,
    }


def a_report(index=0, **spec):
    defaults = {"pod": f"tiny-lm-{index}", "uid": f"uid-{index}", "incarnation": "i0"}
    return {
        "metadata": {"name": f"tiny-lm-{index}", "namespace": "ml"},
        "spec": defaults | spec,
    }


def a_membership(*, owner=UID, **spec):
    return {
        "metadata": {
            "name": "tiny-lm",
            "namespace": "ml",
            "resourceVersion": "9",
            "ownerReferences": [{"uid": owner, "controller": True}],
        },
        "spec": {"round": 3} | spec,
    }


def test_puts_together_what_belongs_to_the_job():
    observed = observed_from(
        a_stored_job(round=3),
        membership=a_membership(),
        pods=[a_pod(1), a_pod(0)],
        reports=[a_report(0, phase="Warm")],
    )
    assert observed.job.status.round == 3
    assert observed.membership.round == 3
    assert [pod.name for pod in observed.pods] == ["tiny-lm-0", "tiny-lm-1"]
    assert observed.pods[0].created == datetime(2026, 1, 1, tzinfo=UTC)
    assert list(observed.reports) == ["tiny-lm-0"]


def test_what_belongs_to_an_earlier_job_of_that_name_is_left_out():
    observed = observed_from(
        a_stored_job(),
        membership=a_membership(owner="an-earlier-uid"),
        pods=[a_pod(0, owner="an-earlier-uid"), a_pod(1, ownerReferences=[])],
        reports=[],
    )
    assert observed.membership is None
    assert observed.pods == ()


def test_a_pod_that_was_built_from_an_older_template_is_outdated():
    job = a_stored_job()
    hashes = [template_hash(read_job(job).spec), "an-older-one"]
    pods = [
        a_pod(index, annotations={"concertina.dev/template-hash": text})
        for index, text in enumerate(hashes)
    ]
    observed = observed_from(job, membership=None, pods=pods, reports=[])
    assert [pod.outdated for pod in observed.pods] == [False, True]


def test_a_pod_tells_its_job_whether_it_leaves_and_whether_it_is_ready():
    pod = read_pod(
        a_pod(
            deletionTimestamp="2026-01-01T00:01:00Z",
            status={"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        )
    )
    assert pod.job == Key("ml", "tiny-lm")
    assert pod.facts.deleting
    assert pod.facts.ready


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        pytest.param({"round": -1}, "round", id="out of bounds"),
        pytest.param({"phase": "Dancing"}, "phase", id="unknown word"),
        pytest.param({"pod": "tiny-lm-9"}, "tiny-lm-9", id="about another pod"),
        pytest.param({"padding": "x" * MAX_REPORT_BYTES}, f"bytes > {MAX_REPORT_BYTES}", id="huge"),
    ],
)
def test_a_report_that_is_not_valid_is_refused_and_the_last_good_one_stands(spec, want):
    last = read_report(a_report(phase="Warm"))
    heard = read_report(a_report(**spec), last)
    assert heard.report == last.report
    assert want in heard.refusal
    assert read_report(a_report(**spec)).report is None


@pytest.mark.parametrize("spec", [None, [], "words", 3, {"pod": None}])
def test_a_report_of_any_shape_is_refused_without_an_error(spec):
    document = a_report() | {"spec": spec}
    assert read_report(document).refusal


def test_a_good_report_ends_the_refusal():
    heard = read_report(a_report(), HeardReport(report=None, refusal="it was bad"))
    assert heard.refusal == ""


def test_a_membership_that_nobody_understands_keeps_its_version():
    stored = read_membership(a_membership(round="many"))
    assert stored.membership is None
    assert (stored.version, stored.owner) == ("9", UID)


def test_conditions_of_a_newer_operator_are_passed_over():
    conditions = [
        {"type": "FromTheFuture", "status": "True", "reason": "New"},
        {"type": "Ready", "status": "True", "reason": "Training"},
    ]
    job = read_job(a_stored_job(conditions=conditions))
    assert [entry.type for entry in job.status.conditions] == ["Ready"]


def test_what_a_newer_operator_wrote_in_another_way_is_passed_over():
    job = read_job(a_stored_job(round=3, probe="a word", retry={"count": "many"}))
    assert (job.status.round, job.status.probe, job.status.retry.count) == (3, 0, 0)


def test_a_spec_that_breaks_a_rule_is_named_with_the_rule():
    document = a_stored_job()
    document["spec"]["batch"]["initial"] = 17
    with pytest.raises(InvalidJob, match="17 is not a multiple of microBatchSize 8"):
        read_job(document)
