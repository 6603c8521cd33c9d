"""Files that programs of the user write: reports, the membership, the record of a run."""

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from concertina_operator.local.observe import MAX_REPORT_BYTES, read_membership, read_report
from concertina_operator.local.record import Outcome, Tail, read_rows, summarize
from tests.fuzzing import DEEP, LENGTHS, STRANGE, bounded, encoded, fuzz, json_bytes, spoilt

FIXTURES = Path(__file__).parents[2] / "fixtures" / "protocol-1"
ROWS = [
    {"step": 1, "samples": 8, "loss": 0.5, "global_batch_size": 8, "num_micro_batches": 4}
    | {"world_size": 2, "round": 1, "pause_seconds": 0.1, "time": 1.0, "gradient_norm": 2.0},
    {"step": 1, "samples": 8, "evaluation": {"validation": 0.5}, "time": 1.0},
    {"step": 1, "samples": 8, "decision": {"requested": 9, "effective": 8, "grow": False}}
    | {"reason": "held", "time": 1.0},
]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "file"


def documents(pattern):
    return [json.loads(path.read_text()) for path in sorted(FIXTURES.glob(pattern))]


@LENGTHS
@pytest.mark.parametrize(
    ("read", "pattern"), [(read_report, "report-*.json"), (read_membership, "membership-*.json")]
)
def test_a_file_is_understood_or_passed_over(file, read, pattern, examples):
    def check(content):
        file.write_bytes(content)
        read(file)
        assert file.read_bytes() == content

    fuzz(check, json_bytes(documents(pattern)), examples=examples)


@pytest.mark.parametrize("read", [read_report, read_membership])
@pytest.mark.parametrize("content", [*DEEP, *STRANGE], ids=lambda content: repr(content[:12]))
def test_a_file_of_something_else_is_passed_over(file, read, content):
    file.write_bytes(content)
    assert bounded(read, file) is None


def test_a_report_is_not_read_beyond_its_bound(file):
    with file.open("wb") as opened:
        opened.truncate(2**40)
    assert read_report(file) is None
    assert MAX_REPORT_BYTES < 2**20


@LENGTHS
def test_rows_that_are_none_are_passed_over(file, examples):
    lines = json_bytes(ROWS) | spoilt(ROWS).map(encoded)
    contents = st.lists(lines, max_size=6).map(lambda rows: b"".join(row + b"\n" for row in rows))

    def check(content):
        file.unlink(missing_ok=True)
        tail = Tail(file)
        file.write_bytes(content)
        rows = read_rows(file)
        assert len(tail.read()) == len(rows) <= content.count(b"\n")
        facts = {"starts": [0.0], "wall_seconds": 1.0, "phases": {}}
        page = summarize(rows, outcome=Outcome.COMPLETED, **facts)
        json.dumps(page)

    fuzz(check, contents, examples=examples)


@pytest.mark.parametrize("content", [*DEEP, *STRANGE], ids=lambda content: repr(content[:12]))
def test_a_line_of_something_else_is_no_row(file, content):
    file.write_bytes(content + b"\n")
    assert bounded(read_rows, file) == []
