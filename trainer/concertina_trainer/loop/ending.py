"""How a worker's part in the training ends, and what it saves before.

The rounds (loop/rounds.py) say how it ended; worker.py makes the exit code of it.
"""

from enum import Enum, auto

from concertina_trainer.loop.keeper import StateKeeper
from concertina_trainer.loop.last_save import SETTLE_SECONDS, save_together
from concertina_trainer.loop.saving import Saver


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
    """No membership comes any more: save what survivors hold between them.

    They give up within this time of each other, or within SETTLE_SECONDS; pods that must end do so
    sooner, for they were told at once.
    """
    held = [(holding, False) for holding in keeper.held]
    save_together(
        saver,
        [*held, *keeper.snapshots.offers()],
        settle_seconds=min(within_seconds, SETTLE_SECONDS, saver.final_seconds / 8),
    )
