"""Reading and summing up the record of a run."""

from pathlib import Path
from typing import Any

from concertina_operator.local.record import (
    Outcome,
    Row,
    Tail,
    batch_stages,
    read_rows,
    resizes,
    summarize,
)
from tests.concertina_operator.local.rows import a_decision, a_step, an_evaluation, write_rows


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def _summary(*rows: Row, starts: tuple[float, ...] = (1000.0,)) -> dict[str, Any]:
    return summarize(
        rows, outcome=Outcome.COMPLETED, starts=starts, wall_seconds=9.0, phases={2: {"open": 0.1}}
    )


def test_a_tail_tells_each_row_once(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    _append(path, a_step(1).model_dump_json() + "\n")
    assert [row.step for row in tail.read()] == [1]
    assert tail.read() == []


def test_a_tail_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    tail = Tail(path)
    line = a_step(1).model_dump_json()
    _append(path, line[:20])
    assert tail.read() == []
    _append(path, line[20:] + "\n")
    assert [row.step for row in tail.read()] == [1]


def test_a_tail_begins_at_the_end_of_an_older_run(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    write_rows(path, a_step(1), a_step(2))
    tail = Tail(path)
    _append(path, a_step(3).model_dump_json() + "\n")
    assert [row.step for row in tail.read()] == [3]


def test_a_tail_goes_on_in_a_record_that_was_rolled_back(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    write_rows(path, a_step(1), a_step(2), a_step(3))
    tail = Tail(path)
    first, *later = path.read_text().splitlines(keepends=True)
    path.write_text(first + "".join(later).replace("false", "true "))
    _append(path, a_step(2, loss=7.0).model_dump_json() + "\n")
    assert [row.discarded for row in read_rows(path)] == [False, True, True, False]
    (row,) = tail.read()
    assert row == a_step(2, loss=7.0)


def test_lines_that_are_no_rows_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text('{"step": 1}\n[]\n"x"\nnull\n\x00\n{"decision": 3, "step": 1, "samples": 1}\n')
    _append(path, a_step(2).model_dump_json() + "\n")
    assert [row.step for row in read_rows(path)] == [2]


def test_each_kind_of_row_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    rows = [a_step(1), an_evaluation(1), a_decision(1), a_decision(1, shadow=True)]
    write_rows(path, *rows)
    assert read_rows(path) == rows


def test_a_stage_begins_where_its_first_step_begins() -> None:
    steps = [
        a_step(1),
        a_step(2, samples=24, global_batch_size=16),
        a_step(3, samples=40, global_batch_size=16),
        a_step(4, samples=44, global_batch_size=4),  # what was left
    ]
    assert batch_stages(steps) == [(0, 8), (8, 16)]


def test_a_resize_is_a_change_of_the_world_size() -> None:
    steps = [a_step(1), a_step(2, round=2), a_step(3, round=3, world_size=2)]
    assert [(a.step, b.step) for a, b in resizes(steps)] == [(2, 3)]


def test_the_summary_of_a_run() -> None:
    got = _summary(
        a_step(1, loss=3.0),
        a_step(2, discarded=True, loss=9.0, time=1002.0),
        a_step(2, loss=None, skipped=True, time=1003.0),
        an_evaluation(2, validation=2.5),
        a_step(3, loss=1.0, world_size=2, round=2, pause_seconds=0.5, time=1005.0),
    )
    assert got == {
        "outcome": "completed",
        "steps": 3,
        "samples": 24,
        "final_loss": 1.0,
        "evaluation": [{"samples": 16, "step": 2, "validation": 2.5}],
        "batches": [{"samples": 0, "global_batch_size": 8}],
        "resizes": [
            {
                "samples": 16,
                "step": 2,
                "round": 2,
                "from": 1,
                "to": 2,
                "pause_seconds": 0.5,
                "phases": {"open": 0.1},
            }
        ],
        "pause_seconds": 0.5,
        "wall_seconds": 9.0,
        # One second each for steps 2 and 2 again, two seconds of two workers for step 3.
        "worker_seconds": 6.0,
        "discarded_steps": 1,
        "discarded_samples": 8,
        "skipped_steps": 1,
        "starts": [1000.0],
    }


def test_a_resize_whose_steps_were_rolled_back_is_told() -> None:
    summary = _summary(
        a_step(1),
        a_step(2, world_size=2, round=2, pause_seconds=0.5, discarded=True),
        a_step(2, round=3, pause_seconds=0.25),
    )
    found = [(row["round"], row["from"], row["to"]) for row in summary["resizes"]]
    assert found == [(2, 1, 2), (3, 2, 1)]
    assert summary["pause_seconds"] == 0.75


def test_the_time_between_two_shells_is_nobodys() -> None:
    rows = [a_step(1), a_step(2), a_step(3, time=5000.0), a_step(4, time=5001.0)]
    assert _summary(*rows, starts=(1000.0, 4990.0))["worker_seconds"] == 2.0


def test_the_summary_of_nothing() -> None:
    got = _summary()
    assert (got["steps"], got["samples"], got["final_loss"], got["batches"]) == (0, 0, None, [])
