"""Lines for people."""

import pytest

from concertina_api.v1alpha1 import Resize
from concertina_operator.actions import Event, EventType
from concertina_operator.local.narrate import (
    Line,
    Topic,
    clean,
    duration_text,
    line_of_event,
    line_of_progress,
    line_of_resize,
    lines_of_row,
)
from concertina_operator.local.record import Row
from tests.concertina_operator.local.rows import a_decision, a_step, an_evaluation


@pytest.mark.parametrize(
    ("row", "want"),
    [
        pytest.param(a_step(), [], id="step"),
        pytest.param(
            a_step(3, loss=None),
            [(Topic.WARNING, "24 samples: loss or gradient of step 3 is not finite")],
            id="skipped-step",
        ),
        pytest.param(
            a_step(3, loss=2.0, skipped="NotFinite"),
            [(Topic.WARNING, "24 samples: loss or gradient of step 3 is not finite")],
            id="finite-loss-with-another-gradient",
        ),
        pytest.param(
            a_step(3, loss=9.5, skipped="Spike"),
            [(Topic.WARNING, "24 samples: step 3 is skipped, its loss 9.5000 spikes")],
            id="spike",
        ),
        pytest.param(a_decision(), [(Topic.GROW, "8 samples: wants 16")], id="grow"),
        pytest.param(
            a_decision(grow=False, reason="holds"), [(Topic.HOLD, "8 samples: holds")], id="hold"
        ),
        pytest.param(
            a_decision(shadow=True), [(Topic.SHADOW, "8 samples: NormTest: wants 16")], id="shadow"
        ),
        pytest.param(
            an_evaluation(200, a=1.5, b=None),
            [(Topic.EVALUATION, "1,600 samples: a 1.5000, b not finite")],
            id="evaluation",
        ),
        pytest.param(a_step(loss=None, discarded=True), [], id="discarded"),
    ],
)
def test_a_row_is_told(row: Row, want: list[tuple[Topic, str]]) -> None:
    assert [(line.topic, line.text) for line in lines_of_row(row)] == want


def test_a_resize_is_told_with_its_phases() -> None:
    resize = Resize(
        round=3,
        world_size_before=2,
        world_size=4,
        step=412,
        pause_seconds=0.3,
        phases={"agree": 0.001, "exchange": 0.2},
    )
    want = "round 3: 2 -> 4 workers after step 412, pause 0.30 s (exchange 0.20)"
    assert line_of_resize(resize) == Line(topic=Topic.RESIZE, text=want)


def test_a_start_is_told_with_the_source_of_its_state() -> None:
    resize = Resize(
        round=1, world_size_before=0, world_size=1, step=0, pause_seconds=0, source="checkpoint"
    )
    assert "1 worker(s) from checkpoint after step 0" in line_of_resize(resize).text


@pytest.mark.parametrize(
    ("kind", "reason", "want"),
    [
        pytest.param(EventType.NORMAL, "PodsCreated", Topic.PLAN, id="decision"),
        pytest.param(EventType.WARNING, "MemberLost", Topic.WARNING, id="warning"),
        pytest.param(EventType.WARNING, "WorkerFailed", Topic.FAILURE, id="failure"),
    ],
)
def test_an_event_is_told_on_one_line(kind: EventType, reason: str, want: Topic) -> None:
    event = Event(type=kind, reason=reason, message="tiny-1: a\nb\x1b[2J")
    assert line_of_event(event) == Line(topic=want, text="tiny-1: a b [2J")


def test_progress_is_told_with_the_time_left() -> None:
    got = line_of_progress(a_step(10), total_samples=4000, seconds_left=125.0).text
    want = "step 10, 80/4,000 samples, loss 2.0000, batch 8, 1 x 2 of 2, 2:05 left"
    assert got == want


@pytest.mark.parametrize(
    ("seconds", "want"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03"), (360_000, "100:00:00")]
)
def test_durations(seconds: float, want: str) -> None:
    assert duration_text(seconds) == want


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert clean("\x1b]0;title\x07 ok\u202e") == "]0;title  ok"
