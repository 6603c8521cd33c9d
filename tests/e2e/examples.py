"""The shipped examples, ended a few steps after a second worker has joined."""

from collections.abc import Mapping
from typing import Any

from concertina_trainer.examples.digits import Digits
from concertina_trainer.examples.llama import Llama
from concertina_trainer.task import StopTraining

STEPS_BY_TWO = 5


class _UntilResized:
    """Stops the run."""

    steps_by_two = 0

    def on_step(self, record: Mapping[str, Any]) -> StopTraining | None:
        self.steps_by_two += record.get("world_size", 1) == 2
        return (
            StopTraining("two workers have trained") if self.steps_by_two >= STEPS_BY_TWO else None
        )


class ResizedDigits(_UntilResized, Digits):
    """Batch norm on handwritten digits."""


class ResizedLlama(_UntilResized, Llama):
    """A Hugging Face model on token files."""
