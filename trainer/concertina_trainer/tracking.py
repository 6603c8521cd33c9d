"""Sends the record of a run to TensorBoard or Weights & Biases: one line in a task.

    class MyTask(Task):
        on_step = tensorboard("runs/curves")

The loop calls `on_step` on the leader. Nothing is opened before the first row, because every
worker and loader process makes the task; when the leader changes, the next one goes on.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from concertina_api.errors import MissingPackage

Record = Mapping[str, Any]
"""A row of steps.jsonl: of a step, an evaluation or a decision."""

_AXES = {"step", "samples", "time"}


class Tracker(ABC):
    """An `on_step` callback that draws every number of the record over samples."""

    def __call__(self, record: Record) -> None:
        """Draw the numbers of one row."""
        scalars = dict(_scalars(record))
        if scalars and "samples" in record:
            self.draw(scalars, samples=record["samples"], step=record.get("step", 0))

    @abstractmethod
    def draw(self, scalars: Mapping[str, float], *, samples: int, step: int) -> None:
        """Add a point to the curve of each name."""


class _TensorBoard(Tracker):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def draw(self, scalars: Mapping[str, float], *, samples: int, step: int) -> None:
        del step
        if self._writer is None:
            module = import_module("torch.utils.tensorboard")
            self._writer = module.SummaryWriter(str(self._folder))
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, global_step=samples)


class _WeightsAndBiases(Tracker):
    def __init__(self, project: str, *, run: str | None) -> None:
        self._project = project
        self._run = run
        self._opened: Any = None

    def draw(self, scalars: Mapping[str, float], *, samples: int, step: int) -> None:
        if self._opened is None:
            self._opened = import_module("wandb").init(
                project=self._project, id=self._run, resume="allow"
            )
            self._opened.define_metric("*", step_metric="samples")
        self._opened.log({**scalars, "samples": samples, "step": step})


def tensorboard(folder: str | Path) -> Tracker:
    """Draw into an event file in `folder`; raises MissingPackage without the extra."""
    _require("tensorboard", purpose="tracking with TensorBoard")
    return _TensorBoard(Path(folder))


def wandb(project: str, *, run: str | None = None) -> Tracker:
    """Draw into a run of Weights & Biases; raises MissingPackage without the extra.

    `run` is the run's id, under which another leader goes on. Default: the name of the run's
    folder, if `concertina run` gave one.
    """
    _require("wandb", purpose="tracking with Weights & Biases")
    folder = os.environ.get("CONCERTINA_RUN_DIR")
    return _WeightsAndBiases(project, run=run or (Path(folder).name if folder else None))


def _require(package: str, *, purpose: str) -> None:
    if find_spec(package) is None:
        raise MissingPackage(package, extra=package, purpose=purpose)


def _scalars(record: Record, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of the row, nested ones by path: evaluation/validation, decision/noise_scale."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and (prefix or name not in _AXES):
            yield f"{prefix}{name}", float(value)
