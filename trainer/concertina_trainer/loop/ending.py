"""How a worker's part in the training ends, and what it saves before.

The rounds (loop/rounds.py) say how it ended; worker.py makes the exit code of it.
"""

import logging
from enum import Enum, auto

from concertina_api.errors import TrainingFailed
from concertina_trainer.loop.keeper import StateKeeper
from concertina_trainer.loop.saving import Saver

log = logging.getLogger(__name__)

LAST_SAVE_SECONDS = 60.0
"""How long workers that give up waiting for an operator wait for each other's parts."""


class Ending(Enum):
    """Why the loop ended."""

    FINISHED = auto()
    LEFT = auto()
    EXCLUDED = auto()
    """A round went on without this worker; it must start anew before it may join again."""


def save_last(keeper: StateKeeper, saver: Saver) -> None:
    """A round has no members: save what there is. Raises TrainingFailed when it is not durable."""
    # After an abandoned step, or a round that broke whole, the state is held, not live.
    held = [keeper.hold()] if keeper.live is not None else keeper.held
    for holding in held[:1]:
        saver.save_now(holding)


def save_without_operator(keeper: StateKeeper, saver: Saver, *, within_seconds: float) -> None:
    """No membership comes any more: save what is whole, without the usual wait for lost workers."""
    for holding in keeper.held[:1]:
        try:
            saver.save_now(holding, within_seconds=min(within_seconds, LAST_SAVE_SECONDS))
        except TrainingFailed as error:
            log.warning("%s", error)
