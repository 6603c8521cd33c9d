"""The trainer: measures gradient variance, asks for batches, re-shards FSDP state in place.

What a user's code needs is importable from here; torch is imported when one of the names is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concertina_trainer.script import session
    from concertina_trainer.task import Loss, StopTraining, Task

__all__ = ["Loss", "StopTraining", "Task", "session"]

_HOMES = {
    "Loss": "concertina_trainer.task",
    "StopTraining": "concertina_trainer.task",
    "Task": "concertina_trainer.task",
    "session": "concertina_trainer.script",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
