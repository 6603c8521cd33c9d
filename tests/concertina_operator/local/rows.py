"""Rows of a record, and lines of its file, with defaults that a test overrides."""

import json
from pathlib import Path
from typing import Any

from concertina_operator.local.record import DecisionRow, EvaluationRow, StepRow


def a_step(step: int = 1, **fields: Any) -> StepRow:
    """One of many steps of 8 samples on one worker, a second each."""
    defaults = {
        "step": step,
        "samples": 8 * step,
        "loss": 2.0,
        "global_batch_size": 8,
        "num_micro_batches": 2,
        "world_size": 1,
        "round": 1,
        "time": 1000.0 + step,
    }
    return StepRow.model_validate(defaults | fields)


def an_evaluation(step: int = 1, **losses: float | None) -> EvaluationRow:
    return EvaluationRow(step=step, samples=8 * step, evaluation=losses or {"validation": 2.5})


def a_decision(step: int = 1, *, shadow: bool = False, **fields: Any) -> DecisionRow:
    decision = {
        "requested": 16,
        "effective": 16,
        "grow": True,
        "reason": "wants 16",
        "rule": "NormTest",
    }
    row = {"step": step, "samples": 8 * step, "shadow": shadow, "decision": decision | fields}
    return DecisionRow.model_validate(row)


def write_rows(path: Path, *rows: StepRow | EvaluationRow | DecisionRow) -> None:
    path.write_text("".join(json.dumps(row.model_dump()) + "\n" for row in rows))
