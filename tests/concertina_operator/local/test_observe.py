"""Reading reports, which any program may have written."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from concertina_api.v1alpha1 import PodPhase, Report, TrainingReport
from concertina_operator.local.directory import RunDirectory, open_directory
from concertina_operator.local.files import replace_text
from concertina_operator.local.observe import (
    MAX_REPORT_BYTES,
    Reports,
    read_membership,
    read_report,
)
from concertina_operator.observed import PodFacts
from tests.concertina_operator.local.processes import a_local_job


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    with open_directory(tmp_path, job=a_local_job()) as opened:
        yield opened


def a_pod(uid: str = "u1") -> PodFacts:
    return PodFacts(name="tiny-0", uid=uid, created=datetime.now(UTC))


def report(directory: RunDirectory, **fields: Any) -> Report:
    spec = Report.model_validate({"pod": "tiny-0", "uid": "u1", "incarnation": "i1"} | fields)
    text = TrainingReport(spec=spec).model_dump_json(by_alias=True)
    replace_text(directory.report("tiny-0"), text)
    return spec


def test_reads_the_newest_report(directory: RunDirectory) -> None:
    reports = Reports(directory)
    assert reports.read((a_pod(),)) == {}
    for phase in (PodPhase.WARM, PodPhase.TRAINING):
        want = report(directory, phase=phase)
        assert reports.read((a_pod(),)) == {"tiny-0": want}
        assert reports.read((a_pod(),)) == {"tiny-0": want}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param('{"spec": ', id="cut-short"),
        pytest.param("[" * 10_000, id="too-deep"),
        pytest.param('{"spec": {"pod": "tiny-0"}}', id="fields-missing"),
        pytest.param(
            '{"spec": {"pod": "tiny-0", "uid": "u1", "incarnation": "i", "phase": "Dancing"}}',
            id="unknown-phase",
        ),
        pytest.param(
            '{"spec": {"pod": "tiny-0", "uid": "other", "incarnation": "i"}}', id="other-uid"
        ),
        pytest.param(
            '{"spec": {"pod": "tiny-1", "uid": "u1", "incarnation": "i"}}', id="other-pod"
        ),
    ],
)
def test_the_last_good_report_stands(content: str, directory: RunDirectory) -> None:
    reports = Reports(directory)
    want = report(directory)
    assert reports.read((a_pod(),)) == {"tiny-0": want}
    replace_text(directory.report("tiny-0"), content)
    assert reports.read((a_pod(),)) == {"tiny-0": want}


def test_a_report_of_the_pod_before_is_not_taken(directory: RunDirectory) -> None:
    reports = Reports(directory)
    report(directory)
    assert list(reports.read((a_pod(),))) == ["tiny-0"]
    assert reports.read((a_pod("u2"),)) == {}


def test_a_report_that_is_too_large_is_not_taken(directory: RunDirectory) -> None:
    spec = report(directory)
    path = directory.report("tiny-0")
    padded = path.read_text() + " " * (MAX_REPORT_BYTES - path.stat().st_size)
    path.write_text(padded)
    assert read_report(path) == spec
    path.write_text(padded + " ")
    assert read_report(path) is None


def test_a_damaged_membership_is_none(directory: RunDirectory) -> None:
    assert read_membership(directory.membership) is None
    directory.membership.write_text('{"spec": {"round": -1}}')
    assert read_membership(directory.membership) is None
