"""What the shell shows: lines that stay, and a picture of now that is drawn again and again.

A terminal gets the live display (live.py, needs rich); everything else gets plain lines.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TextIO

from concertina_api.errors import MissingPackage
from concertina_api.v1alpha1 import AdaptiveTrainingJob, JobStatus, Resize
from concertina_operator.local.narrate import Line, Topic, line_of_progress
from concertina_operator.local.record import Decision, EvaluationRow, StepRow


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """A pod and what it does, in one word."""

    name: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The run as it is now."""

    job: AdaptiveTrainingJob
    status: JobStatus
    pods: tuple[PodView, ...] = ()
    step: StepRow | None = None
    decision: Decision | None = None
    evaluation: EvaluationRow | None = None
    resize: Resize | None = None
    samples_per_second: float | None = None
    reason: str = ""
    """Why the plan is what it is."""
    stopping: bool = False

    @property
    def total_samples(self) -> int | None:
        """Length of the run; None while it is known in epochs alone."""
        known = self.step.total_samples if self.step else None
        return self.job.spec.samples or known

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the samples per second of the last moments."""
        if not (self.step and self.total_samples and self.samples_per_second):
            return None
        return max(0, self.total_samples - self.step.samples) / self.samples_per_second


class Display(Protocol):
    """Shows a run to a person or a log."""

    def say(self, line: Line) -> None:
        """Adds a line that stays."""

    def show(self, view: View) -> None:
        """Replaces the picture of now."""

    def close(self) -> None:
        """Leaves the terminal as it was found, with the last picture on it."""


class PlainDisplay(Display):
    """Lines only, and one about the progress every few seconds."""

    def __init__(
        self,
        output: TextIO | None = None,
        *,
        every_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._output = output
        self._every_seconds = every_seconds
        self._clock = clock
        self._shown_at = clock()
        self._shown_step = 0

    def say(self, line: Line) -> None:
        """Prints the line with the time of day."""
        text = f"{datetime.now():%H:%M:%S} {line.topic:<8} {line.text}"
        print(text, file=self._output or sys.stdout, flush=True)

    def show(self, view: View) -> None:
        """Prints a line about the progress when the last one is old."""
        row = view.step
        now = self._clock()
        if row is None or row.step == self._shown_step:
            return
        if now - self._shown_at < self._every_seconds:
            return
        self._shown_at, self._shown_step = now, row.step
        total, left = view.total_samples, view.seconds_left
        self.say(line_of_progress(row, total_samples=total, seconds_left=left))

    def close(self) -> None:
        """Nothing to do: every line is flushed when it is printed."""


class SteadyDisplay(Display):
    """A display whose terminal or pipe may break: from then on nothing is shown."""

    def __init__(self, display: Display, *, on_closed_pipe: Callable[[], None]) -> None:
        """`on_closed_pipe` is called when the reader of a pipe has gone, as `head` does."""
        self._display: Display | None = display
        self._on_closed_pipe = on_closed_pipe

    def say(self, line: Line) -> None:
        """See Display."""
        if self._display is not None:
            with self._until_it_breaks():
                self._display.say(line)

    def show(self, view: View) -> None:
        """See Display."""
        if self._display is not None:
            with self._until_it_breaks():
                self._display.show(view)

    def close(self) -> None:
        """See Display."""
        if self._display is not None:
            with self._until_it_breaks():
                self._display.close()

    @contextmanager
    def _until_it_breaks(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            broken, self._display = self._display, None
            if broken is not None:
                with suppress(OSError):
                    broken.close()
            if isinstance(error, BrokenPipeError):
                self._on_closed_pipe()


def display_for(output: TextIO) -> Display:
    """The live display for a terminal, plain lines for a file, a pipe or a dumb terminal."""
    if not output.isatty():
        return PlainDisplay(output)
    try:
        from concertina_operator.local.live import LiveDisplay
    except MissingPackage as error:
        display = PlainDisplay(output)
        display.say(Line(topic=Topic.NOTE, text=str(error)))
        return display
    return LiveDisplay()
