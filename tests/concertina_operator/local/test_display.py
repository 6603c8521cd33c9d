"""Plain lines and the live display."""

import io
import os
import sys
from typing import Any

import pytest

from concertina_api.v1alpha1 import JobStatus, Resize
from concertina_operator.local.display import (
    PlainDisplay,
    PodView,
    SteadyDisplay,
    View,
    display_for,
)
from concertina_operator.local.live import LiveDisplay, picture
from concertina_operator.local.narrate import Line, Topic
from tests.concertina_operator.local.processes import a_local_job
from tests.concertina_operator.local.rows import a_decision, a_step, an_evaluation


def a_view(**fields: Any) -> View:
    defaults = {
        "job": a_local_job(samples=40_000),
        "status": JobStatus(),
        "step": a_step(2125, loss=2.10432, world_size=2, num_micro_batches=8),
        "samples_per_second": 230.0,
    }
    return View(**(defaults | fields))


def drawn(view: View, *, width: int = 100) -> list[str]:
    from rich.console import Console

    console = Console(width=width, record=True, file=io.StringIO(), highlight=False)
    console.print(picture(view))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_the_picture_says_everything_in_seven_rows() -> None:
    view = a_view(
        step=a_step(
            412,
            samples=17_000,
            loss=2.10432,
            global_batch_size=32,
            num_micro_batches=8,
            world_size=2,
        ),
        pods=(
            PodView(name="tiny-0", state="Training"),
            PodView(name="tiny-1", state="Starting"),
        ),
        decision=a_decision(requested=71, noise_scale=114.2).decision,
        evaluation=an_evaluation(400, validation=2.31),
        resize=Resize(
            round=2,
            world_size_before=1,
            world_size=2,
            step=300,
            pause_seconds=0.31,
            phases={"open": 0.08, "exchange": 0.12},
        ),
        reason="Training: 2 pods train",
    )
    title, bar, *facts = drawn(view)
    assert title.startswith("tiny \u2500")
    assert bar.endswith("42%  17,000 of 40,000 samples  1:40 left")
    assert facts == [
        "train  loss 2.1043   step 412   230 samples/s   validation 2.3100",
        "batch  requested 71   effective 32 = 8 x 4, 4 per worker   noise scale 114",
        "pods   \u25cf tiny-0 training   \u25cb tiny-1 starting",
        "pause  0.31 s   1 -> 2 workers   open 0.08, exchange 0.12",
        "plan   Training: 2 pods train",
    ]


def test_the_picture_before_the_first_step() -> None:
    _, bar, *facts = drawn(a_view(step=None, samples_per_second=None))
    assert bar.endswith("0%  0 of 40,000 samples  starting")
    assert facts[0] == "train  waiting for the first step"
    assert facts[1] == "batch  starts at 8 samples"


def test_the_picture_keeps_its_height_with_long_reasons_and_many_pods() -> None:
    pods = tuple(PodView(name=f"tiny-{number}", state="Training") for number in range(40))
    lines = drawn(a_view(pods=pods, reason="because " * 100))
    assert len(lines) == 7
    assert max(map(len, lines)) <= 100


def test_the_picture_of_a_run_in_epochs_has_no_time_left() -> None:
    view = a_view(job=a_local_job(samples=None, epochs=2))
    assert view.seconds_left is None
    assert drawn(view)[1].endswith("17,000 samples")


def test_the_picture_says_how_to_stop_at_once() -> None:
    assert "Ctrl-C again stops at once" in drawn(a_view(stopping=True))[0]


def test_lines_scroll_above_the_picture() -> None:
    from rich.console import Console

    output = io.StringIO()
    display = LiveDisplay(Console(file=output, width=100, force_terminal=True))
    display.show(a_view())
    display.say(Line(topic=Topic.GROW, text="[bold]11,776 samples: grows"))
    display.close()
    told = output.getvalue()
    assert "[bold]11,776 samples: grows" in told
    assert "waiting" not in told
    assert told.rindex("loss") > told.index("grows")


def test_plain_lines_come_at_once_and_progress_now_and_then() -> None:
    now = 0.0
    output = io.StringIO()
    display = PlainDisplay(output, every_seconds=10, clock=lambda: now)
    display.say(Line(topic=Topic.GROW, text="grows"))
    display.show(a_view())
    now = 10.0
    display.show(a_view())
    display.show(a_view(step=a_step(2126)))
    now = 20.0
    display.show(a_view())  # no step since
    display.close()
    lines = [line[9:] for line in output.getvalue().splitlines()]
    assert lines == [
        "grow     grows",
        "progress step 2125, 17,000/40,000 samples, loss 2.1043, batch 8, 2 x 4 of 8, 1:40 left",
    ]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_the_live_display_and_a_file_plain_lines() -> None:
    assert isinstance(display_for(_Terminal()), LiveDisplay)
    assert isinstance(display_for(io.StringIO()), PlainDisplay)


def test_without_rich_a_terminal_gets_plain_lines_and_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "concertina_operator.local.live")
    output = _Terminal()
    assert isinstance(display_for(output), PlainDisplay)
    assert "pip install 'concertina-training[local]'" in output.getvalue()


def test_a_closed_pipe_is_told_once_and_nothing_is_shown_any_more() -> None:
    reader, writer = os.pipe()
    closed: list[str] = []
    with os.fdopen(writer, "w") as output:
        display = SteadyDisplay(
            PlainDisplay(output, every_seconds=0), on_closed_pipe=lambda: closed.append("closed")
        )
        display.say(Line(topic=Topic.NOTE, text="hello"))
        assert os.read(reader, 100).endswith(b"hello\n")
        os.close(reader)
        for _ in range(3):
            display.say(Line(topic=Topic.NOTE, text="anybody?"))
            display.show(a_view())
        display.close()
        assert closed == ["closed"]
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # for what the pipe did not take
