"""Objects of the API server with anything in them become facts, or are refused in words."""

import json
from pathlib import Path

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import JobSpec
from concertina_operator.cluster.facts import (
    HeardReport,
    read_job,
    read_membership,
    read_report,
    read_status,
)
from concertina_operator.cluster.pod import build_pod
from concertina_operator.cluster.template import template_faults
from tests.concertina_operator.cluster.templates import JOB
from tests.concertina_operator.factories import a_spec
from tests.fuzzing import LENGTHS, anything, fuzz, refused, spoilt
from tests.shipped import shipped_jobs

FIXTURES = Path(__file__).parents[2] / "fixtures" / "protocol-1"
METADATA = {"name": "tiny-0", "resourceVersion": "1", "uid": "u", "namespace": "lab"}
SPECS = [job["spec"] for job in shipped_jobs()]
STATUSES = [
    {
        "observedGeneration": 2,
        "replicas": 1,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Training",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
                "observedGeneration": 2,
            }
        ],
        "failures": {"count": 1},
    }
]


def specs(pattern):
    return [json.loads(path.read_text())["spec"] for path in sorted(FIXTURES.glob(pattern))]


@LENGTHS
def test_a_report_is_heard_or_refused_and_the_last_good_one_stands(examples):
    last = read_report({"metadata": METADATA, "spec": specs("report-first-round.json")[0]})

    def check(spec):
        heard = read_report({"metadata": METADATA, "spec": spec}, last)
        assert isinstance(heard, HeardReport)
        assert len(heard.refusal) < 1000
        assert heard.report is last.report or not heard.refusal

    fuzz(check, spoilt(specs("report-*.json")) | anything, examples=examples)


@LENGTHS
def test_a_membership_is_understood_or_none(examples):
    def check(spec):
        stored = read_membership({"metadata": METADATA, "spec": spec})
        assert stored.version == "1"

    fuzz(check, spoilt(specs("membership-*.json")) | anything, examples=examples)


@LENGTHS
def test_a_job_is_understood_or_invalid(examples):
    def check(spec):
        document = {"metadata": METADATA, "spec": spec}
        refused(lambda: read_job(document), error=InvalidJob)

    fuzz(check, spoilt(SPECS) | anything, examples=examples)


@LENGTHS
def test_of_a_status_what_is_strange_is_left_out(examples):
    def check(status):
        read_status({"metadata": METADATA, "status": status})

    fuzz(check, spoilt(STATUSES) | anything, examples=examples)


@LENGTHS
def test_a_template_is_built_or_its_faults_are_told(examples):
    def check(template):
        if not isinstance(template, dict):
            return  # the server takes objects alone
        spec = JobSpec.model_validate({**a_spec().model_dump(), "pods": {"template": template}})
        faults = template_faults(spec)
        pod, words = refused(lambda: build_pod(JOB, spec, name="tiny-0"), error=InvalidJob)
        assert bool(faults) == bool(words)
        assert pod is None or pod["spec"]["containers"]

    pods = [spec["pods"] for spec in SPECS]
    templates = [part["template"] for part in pods if "template" in part]
    fuzz(check, spoilt(templates) | anything, examples=examples)
