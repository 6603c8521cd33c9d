"""Messages of protocol 1 as trainers and operators in use write them; the files are never changed.

They are memberships and reports of real runs: growth, a worker and a pod that were killed, a pod
told to leave, one that does not answer, a run suspended, a job that cannot start. What is added to
the protocol comes in files of its own.
"""

import json
from pathlib import Path

import pytest

from concertina_api.v1alpha1 import (
    PROTOCOL,
    FailureCause,
    Intent,
    PodPhase,
    TrainingMembership,
    TrainingReport,
)
from concertina_trainer.agent.report import MAX_BYTES, size_bytes

FOLDER = Path(__file__).parents[2] / "fixtures" / "protocol-1"
KINDS = {"TrainingMembership": TrainingMembership, "TrainingReport": TrainingReport}
FILES = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("*.json"))]


def recorded(kind):
    paths = sorted(FOLDER.glob("*.json"))
    documents = [json.loads(path.read_text()) for path in paths]
    return [KINDS[kind].model_validate(d).spec for d in documents if d["kind"] == kind]


@pytest.mark.parametrize("path", FILES)
def test_a_recorded_message_is_understood_to_the_last_field(path):
    document = json.loads(path.read_text())

    message = KINDS[document["kind"]].model_validate_json(path.read_bytes(), extra="forbid")

    again = message.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert again == document


@pytest.mark.parametrize("path", FILES)
def test_what_a_newer_writer_adds_is_ignored(path):
    document = json.loads(path.read_text())
    newer = document | {"spec": document["spec"] | {"fieldOfProtocol9": {"a": [1]}}}

    read = KINDS[document["kind"]].model_validate(newer)

    assert read == KINDS[document["kind"]].model_validate(document)


def test_recorded_reports_tell_everything_that_a_pod_has_to_tell():
    reports = recorded("TrainingReport")

    assert {report.phase for report in reports} == set(PodPhase)
    causes = {report.failure.cause for report in reports if report.failure}
    assert causes >= {FailureCause.EXCEPTION, FailureCause.SIGNAL, FailureCause.INVALID_JOB}
    for field in ("request", "progress", "acknowledged", "checkpoint", "port"):
        assert any(getattr(report, field) is not None for report in reports), field
    assert any(report.leaving for report in reports)
    assert any(report.suspects for report in reports)
    assert any(report.probe for report in reports)
    assert any(report.finished for report in reports)
    assert all(size_bytes(report) <= MAX_BYTES for report in reports)
    assert all(report.protocols.oldest <= 1 <= report.protocols.newest for report in reports)


def test_recorded_memberships_name_members_leavers_and_the_lost():
    memberships = recorded("TrainingMembership")

    assert {membership.intent for membership in memberships} == {Intent.RUN, Intent.SUSPEND}
    assert any(membership.leaving for membership in memberships)
    assert any(membership.lost for membership in memberships)
    assert any(len(membership.members) > 1 for membership in memberships)
    assert any(membership.request_sequence for membership in memberships)
    assert {membership.protocol for membership in memberships} == {1}
    assert PROTOCOL >= 1
