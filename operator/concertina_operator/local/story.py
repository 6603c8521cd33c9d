"""Follows a run for people: tells each new thing once, keeps the present, sums up at the end.

The shell calls `tell` after each plan; what is shown and what is stored in the directory come
from here. Decides nothing about the run.
"""

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from concertina_api.v1alpha1 import PodPhase, Report, Resize
from concertina_operator.actions import Plan
from concertina_operator.local.directory import RunDirectory
from concertina_operator.local.display import Display, PodView, View
from concertina_operator.local.files import replace_text
from concertina_operator.local.narrate import (
    Line,
    Topic,
    line_of_event,
    line_of_resize,
    lines_of_row,
)
from concertina_operator.local.record import (
    Decision,
    DecisionRow,
    EvaluationRow,
    Outcome,
    StepRow,
    Tail,
    read_rows,
    summarize,
)
from concertina_operator.observed import Observed, PodFacts

_RATE_SECONDS: Final = 15.0
_TOLD_OTHERWISE: Final = ("Resized", "RequestAccepted")
"""Events that reports and the record tell with more numbers."""


class Story:
    """What has been told of a run and what stands at present."""

    def __init__(self, directory: RunDirectory, *, display: Display) -> None:
        self._directory = directory
        self._display = display
        self._tail = Tail(directory.record)
        self._began = time.time()
        self._said: dict[str, str] = {}
        self._warned: set[str] = set()
        self._recent: deque[StepRow] = deque()
        self._decision: Decision | None = None
        self._evaluation: EvaluationRow | None = None
        self._resize: Resize | None = None
        self._phases: dict[int, Mapping[str, float]] = {}

    def say(self, line: Line) -> None:
        """A line for the display and for the log of the run."""
        self._display.say(line)
        moment = datetime.now().isoformat(timespec="milliseconds")
        try:
            with self._directory.log.open("a", encoding="utf-8") as log:
                log.write(f"{moment} {line.topic} {line.text}\n")
        except OSError as error:
            self.warn(f"the log of the run lacks lines: {error}")

    def warn(self, text: str) -> None:
        """A warning about what goes on being wrong; the same one is told once."""
        if text not in self._warned:
            self._warned.add(text)
            self.say(Line(topic=Topic.WARNING, text=text))

    def tell(self, observed: Observed, decided: Plan) -> None:
        """Tells what is new since the last call and shows the present."""
        self._tell_record()
        for report in observed.reports.values():
            committed = report.acknowledged
            if committed and (self._resize is None or committed.round > self._resize.round):
                self._resize = committed
                self._phases[committed.round] = committed.phases
                self.say(line_of_resize(committed))
        for event in decided.events:
            repeated = self._said.get(event.reason) == event.message
            if not repeated and event.reason not in _TOLD_OTHERWISE:
                self._said[event.reason] = event.message
                self.say(line_of_event(event))
        self._display.show(self._view(observed, decided))

    def end(self, outcome: Outcome) -> dict[str, Any]:
        """Tells the rest and writes the summary, which it returns."""
        self._tell_record()
        before = _earlier(self._directory)
        known = {resize.round: resize.phases for resize in before.resizes}
        summary = summarize(
            read_rows(self._directory.record),
            outcome=outcome,
            starts=[*before.starts, self._began],
            phases=known | self._phases,
            wall_seconds=before.wall_seconds + time.time() - self._began,
        )
        try:
            replace_text(self._directory.summary, json.dumps(summary, indent=1) + "\n")
        except OSError as error:
            self.warn(f"the summary is not stored: {error}")
        return summary

    def _tell_record(self) -> None:
        for row in self._tail.read():
            for line in lines_of_row(row):
                self.say(line)
            match row:
                case StepRow(discarded=False):
                    self._keep(row)
                case EvaluationRow():
                    self._evaluation = row
                case DecisionRow(decision=decision, shadow=False):
                    self._decision = decision
                case _:
                    pass

    def _keep(self, row: StepRow) -> None:
        if self._recent and row.samples <= self._recent[-1].samples:
            self._recent.clear()  # training went back to an older state
        self._recent.append(row)
        while row.time - self._recent[0].time > _RATE_SECONDS:
            self._recent.popleft()

    def _view(self, observed: Observed, decided: Plan) -> View:
        return View(
            job=observed.job,
            status=decided.status,
            pods=tuple(
                PodView(name=pod.name, state=_state(pod, observed.reports.get(pod.name)))
                for pod in observed.pods
            ),
            step=self._recent[-1] if self._recent else None,
            decision=self._decision,
            evaluation=self._evaluation,
            resize=self._resize,
            samples_per_second=_rate(self._recent),
            reason=decided.reason,
            stopping=observed.job.spec.suspend,
        )


class _EarlierResize(BaseModel):
    round: int
    phases: dict[str, float]


class _Earlier(BaseModel):
    """What the summary of earlier shells says that their rows do not."""

    starts: tuple[float, ...] = ()
    wall_seconds: float = 0.0
    resizes: tuple[_EarlierResize, ...] = ()


def _earlier(directory: RunDirectory) -> _Earlier:
    """Of earlier shells in this directory; nothing when there is no summary that fits."""
    try:
        return _Earlier.model_validate_json(directory.summary.read_bytes())
    except (OSError, ValidationError):
        return _Earlier()


def _state(pod: PodFacts, report: Report | None) -> str:
    if pod.ended:
        return "Failed" if pod.exit_code else "Ended"
    if pod.deleting:
        return "Ending"
    return (report.phase if report else PodPhase.STARTING).value


def _rate(recent: Sequence[StepRow]) -> float | None:
    """Samples per second between the first and the last of some steps; pauses count."""
    if len(recent) < 2 or recent[-1].time <= recent[0].time:
        return None
    return (recent[-1].samples - recent[0].samples) / (recent[-1].time - recent[0].time)
