"""The record of a run: what a return to an older state leaves of it, also where there is no room."""

import json
import resource
from contextlib import contextmanager

import pytest

from concertina_trainer.loop.record import Record


@pytest.fixture
def path(tmp_path):
    return tmp_path / "steps.jsonl"


def a_row(step, **more):
    return {"step": step, "samples": 8 * step, "loss": 2.0} | more


def written(path, *steps):
    record = Record(path)
    for step in steps:
        record.append(a_row(step))
    return record


def counting(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row["step"] for row in rows if not row["discarded"]]


@contextmanager
def no_room_beyond(num_bytes):
    """Files of this process cannot grow: as on a full disk, a write beyond it fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_row_is_returned_as_it_is_written_but_for_the_room_for_its_mark(path):
    row = Record(path).append(a_row(1, loss=float("nan"), metrics={"kl": 0.5}))

    assert row == a_row(1, loss=None, metrics={"kl": 0.5}, time=row["time"])
    assert json.loads(path.read_text()) == row | {"discarded": False}


@pytest.mark.parametrize(
    ("step", "samples", "want_found", "want_counting"),
    [
        pytest.param(3, 24, 2, [1, 2, 3], id="an earlier step"),
        pytest.param(5, 40, 0, [1, 2, 3, 4, 5], id="the newest one"),
        pytest.param(5, 16, 3, [1, 2], id="fewer samples than the step had"),
        pytest.param(0, 0, 5, [], id="the start"),
    ],
)
def test_rows_after_the_state_are_marked_where_they_are(
    path, step, samples, want_found, want_counting
):
    record = written(path, 1, 2, 3, 4, 5)
    before = path.stat()

    assert record.roll_back(step=step, samples=samples) == want_found

    assert counting(path) == want_counting
    after = path.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)


def test_rows_that_are_marked_are_not_found_again(path):
    record = written(path, 1, 2, 3)
    assert record.roll_back(step=1, samples=8) == 2
    written(path, 2, 3, 4)

    assert Record(path).roll_back(step=3, samples=24) == 1
    assert counting(path) == [1, 2, 3]
    assert record.roll_back(step=1, samples=8) == 2
    assert counting(path) == [1]


def test_a_record_of_many_blocks_is_marked_throughout(path):
    record = Record(path)
    for step in range(1, 101):
        record.append(a_row(step, metrics={f"metric {number}": 0.5 for number in range(200)}))

    assert record.roll_back(step=3, samples=24) == 97
    assert counting(path) == [1, 2, 3]


def test_on_a_full_disk_rows_are_lost_but_marks_are_not(path, caplog):
    record = written(path, 1, 2, 3)
    with no_room_beyond(path.stat().st_size):
        record.append(a_row(4))
        found = record.roll_back(step=1, samples=8)

    assert "a row of the record is not written: [Errno 27] File too large" in caplog.text
    assert found == 2
    assert counting(path) == [1]


def test_a_record_that_cannot_be_changed_does_not_end_training(path, caplog):
    path.mkdir()
    record = Record(path)
    record.append(a_row(2))

    assert record.roll_back(step=1, samples=8) == 0
    assert "rows after step 1 of the record are not marked: [Errno 21]" in caplog.text


def test_there_is_nothing_to_mark_before_the_first_row(path):
    assert Record(path).roll_back(step=0, samples=0) == 0


@pytest.mark.parametrize(
    "rubbish",
    [
        pytest.param(b'{"step": 2, "samples": 16, "lo', id="a line cut short"),
        pytest.param(b'"discarded": false}\n', id="the end of a line"),
        pytest.param(b'{"a": 1, "discarded": false}\n', id="no step"),
        pytest.param(b"\xff\x00\n\n[]\n", id="no text"),
    ],
)
def test_lines_that_are_no_rows_are_left_alone(path, rubbish):
    record = written(path, 1)
    with path.open("ab") as file:
        file.write(rubbish)
    written(path, 2)

    assert record.roll_back(step=0, samples=0) == 2
    assert rubbish in path.read_bytes()
