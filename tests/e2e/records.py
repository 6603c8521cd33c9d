"""What a run tells in its folder while it trains and afterwards, wherever its pods are."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from concertina_trainer.agent.mailbox import WorkerStatus

DEADLINE_SECONDS = 120.0
T = TypeVar("T")


class RecordedRun(ABC):
    """A run and the folder that its pods share."""

    folder: Path
    poll_seconds = 0.02
    deadline_seconds = DEADLINE_SECONDS
    """For each wait."""

    @abstractmethod
    def why_ended(self) -> str | None:
        """Why no step can come any more; None as long as one can."""

    @abstractmethod
    def workers(self) -> dict[str, WorkerStatus]:
        """What the first worker of each pod told last; not those that just start."""

    @abstractmethod
    def account(self) -> str:
        """All that is known, for the message of a failure."""

    # The record

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / "steps.jsonl")

    def all_steps(self) -> list[dict[str, Any]]:
        """Rows of steps, those that were rolled back included."""
        return [row for row in self.rows() if "global_batch_size" in row]

    def steps(self) -> list[dict[str, Any]]:
        """Rows of steps that count."""
        return [row for row in self.all_steps() if not row.get("discarded")]

    def discarded(self) -> list[dict[str, Any]]:
        return [row for row in self.all_steps() if row.get("discarded")]

    # Pods

    def worker(self, pod: str) -> WorkerStatus:
        return self.workers()[pod]

    def leader(self) -> str:
        """The pod that holds rank 0."""
        return next(pod for pod, status in self.workers().items() if status.rank == 0)

    # Waiting

    def wait(self, found: Callable[[], T | None], what: str) -> T:
        """What `found` returns as soon as it is neither None nor False."""
        deadline = time.monotonic() + self.deadline_seconds
        while not (value := found()):
            if (reason := self.why_ended()) is not None:
                raise AssertionError(f"{reason} before: {what}\n{self.account()}")
            if time.monotonic() > deadline:
                message = f"not within {self.deadline_seconds} s: {what}"
                raise AssertionError(f"{message}\n{self.account()}")
            time.sleep(self.poll_seconds)
        return value

    def wait_steps(
        self, count: int = 1, *, workers: int | None = None, after: float = 0.0
    ) -> dict[str, Any]:
        """The last of `count` steps that count, taken by so many workers later than `after`."""

        def found() -> dict[str, Any] | None:
            rows = [
                row
                for row in self.steps()
                if row["time"] > after and workers in (None, row["world_size"])
            ]
            return rows[count - 1] if len(rows) >= count else None

        return self.wait(found, f"{count} steps by {workers or 'any number of'} workers")

    def wait_round(self, number: int) -> dict[str, Any]:
        """The first step that counts of this round or a later one."""

        def found() -> dict[str, Any] | None:
            return next((row for row in self.steps() if row["round"] >= number), None)

        return self.wait(found, f"a step of round {number}")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Whole rows of a record that somebody may be writing."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def samples_in_order(steps: list[dict[str, Any]]) -> bool:
    """Whether each step begins where the one before ended, from sample 0 on."""
    ends = [0, *(row["samples"] for row in steps)]
    return all(
        row["samples"] - row["global_batch_size"] == before
        for row, before in zip(steps, ends, strict=False)
    )
