"""Reads the record of a run (steps.jsonl) while it grows, and sums it up.

The trainer writes the record: a row a step, a row an evaluation, a row a decision. After a return
to an older state it marks the rows that were rolled back, where they are, as `discarded`.
`Tail` does the reading for the live display; `read_rows` reads a whole file; `summarize` is pure.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, TypeAdapter, ValidationError


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    step: int
    samples: int
    """Samples consumed up to here."""
    time: float = 0.0
    """When it was written, in seconds since 1970."""
    discarded: bool = False
    """Rolled back: the same samples were, or will be, trained again."""


class StepRow(_Row):
    """One optimizer step."""

    loss: float | None
    global_batch_size: int
    num_micro_batches: int
    world_size: int
    round: int
    pause_seconds: float = 0.0
    """Pause before this step; more than 0 only for the first step of a round."""
    noise_scale: float | None = None
    skipped: str | bool = False
    """Why it changed no parameter; True, of an earlier release, when it was not finite."""
    total_samples: int | None = None
    """Length of the run, when the manifest gives it in epochs."""


class EvaluationRow(_Row):
    """Losses on the task's evaluation sets."""

    evaluation: Mapping[str, float | None]


class Decision(BaseModel):
    """What a rule wanted and what runs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    requested: int
    effective: int
    grow: bool
    reason: str
    noise_scale: float | None = None
    rule: str = ""


class DecisionRow(_Row):
    """One decision of a rule."""

    decision: Decision
    shadow: bool = False
    """Measured and logged, not acted on."""


Row = StepRow | EvaluationRow | DecisionRow


def _kind(row: Any) -> str:
    if not isinstance(row, Mapping):
        return "step"
    return next((kind for kind in ("evaluation", "decision") if kind in row), "step")


_ROW: TypeAdapter[Row] = TypeAdapter(
    Annotated[
        Annotated[StepRow, Tag("step")]
        | Annotated[EvaluationRow, Tag("evaluation")]
        | Annotated[DecisionRow, Tag("decision")],
        Discriminator(_kind),
    ]
)


class Tail:
    """Yields each row of a growing record once."""

    def __init__(self, path: Path) -> None:
        """Begins at the end of what is there: a resumed run tells only what is new."""
        self._path = path
        self._offset = 0
        for _ in self._new_lines():
            pass

    def read(self) -> list[Row]:
        """Rows since the last call; lines that are no rows are passed over."""
        return [row for line in self._new_lines() if (row := _parse(line)) is not None]

    def _new_lines(self) -> Iterator[bytes]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written
                self._offset += len(line)
                yield line


def read_rows(path: Path) -> list[Row]:
    """All rows of a record; none when there is no file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [row for line in file if (row := _parse(line)) is not None]


def surviving_steps(rows: Iterable[Row]) -> list[StepRow]:
    """The steps that count: each sample is in them exactly once."""
    return [row for row in rows if isinstance(row, StepRow) and not row.discarded]


def resizes(steps: Sequence[StepRow]) -> list[tuple[StepRow, StepRow]]:
    """Last step before and first step after each change of the world size."""
    return [(a, b) for a, b in pairwise(steps) if a.world_size != b.world_size]


def batch_stages(steps: Iterable[StepRow]) -> list[tuple[int, int]]:
    """(samples, global batch) at which each batch began; the last, smaller step is not a stage."""
    stages: list[tuple[int, int]] = []
    rows = list(steps)
    for number, row in enumerate(rows):
        last = number == len(rows) - 1
        if stages and (row.global_batch_size == stages[-1][1] or last):
            continue
        stages.append((row.samples - row.global_batch_size, row.global_batch_size))
    return stages


class Outcome(StrEnum):
    """How a run ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    INVALID = "invalid"
    """Failed by a mistake of the user's."""
    INTERRUPTED = "interrupted"

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        return {"completed": 0, "failed": 1, "invalid": 2, "interrupted": 130}[self.value]


def summarize(
    rows: Sequence[Row],
    *,
    outcome: Outcome,
    starts: Sequence[float],
    wall_seconds: float,
    phases: Mapping[int, Mapping[str, float]],
) -> dict[str, Any]:
    """The run on one page, JSON values only. Pure.

    `starts` are the moments (seconds since 1970) at which a shell began to work on the run, and
    `wall_seconds` the time that all of them took; the time between two shells is nobody's.
    `phases` are the seconds of each phase of a pause, by round.
    """
    steps = surviving_steps(rows)
    losses = [row.loss for row in steps if row.loss is not None]
    evaluations = [row for row in rows if isinstance(row, EvaluationRow) and not row.discarded]
    taken = [row for row in rows if isinstance(row, StepRow)]
    changes = resizes(taken)  # a pause was a pause, also when its steps were rolled back later
    discarded = [row for row in taken if row.discarded]
    return {
        "outcome": outcome.value,
        "steps": steps[-1].step if steps else 0,
        "samples": steps[-1].samples if steps else 0,
        "final_loss": losses[-1] if losses else None,
        "evaluation": [
            {"samples": row.samples, "step": row.step, **row.evaluation} for row in evaluations
        ],
        "batches": [
            {"samples": samples, "global_batch_size": batch}
            for samples, batch in batch_stages(steps)
        ],
        "resizes": [
            {
                "samples": before.samples,
                "step": before.step,
                "round": after.round,
                "from": before.world_size,
                "to": after.world_size,
                "pause_seconds": after.pause_seconds,
                "phases": dict(phases.get(after.round, {})),
            }
            for before, after in changes
        ],
        "pause_seconds": round(sum(after.pause_seconds for _, after in changes), 4),
        "wall_seconds": round(wall_seconds, 2),
        "worker_seconds": round(_worker_seconds(rows, starts), 2),
        "discarded_steps": len(discarded),
        "discarded_samples": sum(row.global_batch_size for row in discarded),
        "skipped_steps": sum(bool(row.skipped) for row in steps),
        "starts": list(starts),
    }


def _worker_seconds(rows: Iterable[Row], starts: Sequence[float]) -> float:
    """Seconds between steps times workers, discarded steps and pauses included."""
    steps = sorted((row for row in rows if isinstance(row, StepRow)), key=lambda row: row.time)
    return sum(
        (after.time - before.time) * after.world_size
        for before, after in pairwise(steps)
        if not any(before.time < start <= after.time for start in starts)
    )


def _parse(line: bytes) -> Row | None:
    try:
        return _ROW.validate_json(line)
    except ValidationError:
        return None
