"""Turns what happens in a run into single lines for people. Called by the shell.

Pure: no I/O, no clock. Text from reports and records is written by programs of the user, so
control characters, which could drive a terminal, are replaced.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from concertina_api.batch import accumulation
from concertina_api.v1alpha1 import Resize
from concertina_operator.actions import Event, EventType
from concertina_operator.local.record import DecisionRow, EvaluationRow, Row, StepRow

_FAILURES: Final = (
    "WorkerFailed",
    "OutOfMemory",
    "InfrastructureFailed",
    "BackoffLimitExceeded",
    "PoisonSample",
    "DeadlineExceeded",
    "InvalidJob",
)


class Topic(StrEnum):
    """What a line is about."""

    GROW = "grow"
    HOLD = "hold"
    SHADOW = "shadow"
    RESIZE = "resize"
    EVALUATION = "evaluate"
    PLAN = "plan"
    WARNING = "warning"
    FAILURE = "failure"
    NOTE = "note"
    PROGRESS = "progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line that stays."""

    topic: Topic
    text: str


def lines_of_row(row: Row) -> Iterator[Line]:
    """What a row of the record is worth telling: decisions, evaluations, skipped steps."""
    if row.discarded:
        return
    match row:
        case DecisionRow(decision=decision):
            rule = f"{clean(decision.rule)}: " if row.shadow else ""
            text = f"{_at(row.samples)}: {rule}{clean(decision.reason)}"
            yield Line(topic=_topic(row), text=text)
        case EvaluationRow(evaluation=losses):
            shown = ", ".join(f"{clean(name)} {loss_text(loss)}" for name, loss in losses.items())
            yield Line(topic=Topic.EVALUATION, text=f"{_at(row.samples)}: {shown}")
        case StepRow(skipped="Spike"):
            yield Line(
                topic=Topic.WARNING,
                text=f"{_at(row.samples)}: step {row.step} is skipped,"
                f" its loss {loss_text(row.loss)} spikes",
            )
        case StepRow(loss=loss, skipped=skipped) if loss is None or skipped:
            yield Line(
                topic=Topic.WARNING,
                text=f"{_at(row.samples)}: loss or gradient of step {row.step} is not finite",
            )
        case _:
            return


def line_of_event(event: Event) -> Line:
    """An event of the plan."""
    topic = Topic.WARNING if event.type is EventType.WARNING else Topic.PLAN
    if event.reason in _FAILURES:
        topic = Topic.FAILURE
    return Line(topic=topic, text=clean(event.message))


def line_of_resize(resize: Resize) -> Line:
    """A committed round."""
    workers = f"{resize.world_size_before} -> {resize.world_size} workers"
    if resize.world_size_before == 0:
        workers = f"{resize.world_size} worker(s) from {clean(resize.source)}"
    phases = phases_text(resize.phases)
    return Line(
        topic=Topic.RESIZE,
        text=f"round {resize.round}: {workers} after step {resize.step},"
        f" pause {resize.pause_seconds:.2f} s{f' ({phases})' if phases else ''}",
    )


def line_of_progress(
    row: StepRow, *, total_samples: int | None, seconds_left: float | None
) -> Line:
    """How far training is, for output that is not a terminal."""
    total = f"/{total_samples:,}" if total_samples else ""
    left = "" if seconds_left is None else f", {duration_text(seconds_left)} left"
    return Line(
        topic=Topic.PROGRESS,
        text=f"step {row.step}, {row.samples:,}{total} samples, loss {loss_text(row.loss)},"
        f" {identity_text(row)}{left}",
    )


def identity_text(row: StepRow) -> str:
    """The batch identity of a step, shortly."""
    each = accumulation(row.num_micro_batches, row.world_size)
    return f"batch {row.global_batch_size}, {row.world_size} x {each} of {row.num_micro_batches}"


def phases_text(phases: Mapping[str, float]) -> str:
    """Phases of a pause, in order; those below a hundredth of a second are left out."""
    return ", ".join(
        f"{clean(name)} {value:.2f}" for name, value in phases.items() if value >= 0.01
    )


def loss_text(loss: float | None) -> str:
    """A loss with four digits; what is not finite is not stored."""
    return "not finite" if loss is None else f"{loss:.4f}"


def duration_text(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def clean(text: str) -> str:
    """The text on one line, without control characters."""
    return "".join(char if char.isprintable() else " " for char in text).strip()


def _topic(row: DecisionRow) -> Topic:
    if row.shadow:
        return Topic.SHADOW
    return Topic.GROW if row.decision.grow else Topic.HOLD


def _at(samples: int) -> str:
    return f"{samples:,} samples"
