"""How a worker's part in the training ends, and what it saves before.

The rounds (loop/rounds.py) say how it ended; worker.py makes the exit code of it.
"""

from enum import Enum, auto

from concertina_api.errors import TrainingFailed
from concertina_api.v1alpha1 import Membership
from concertina_trainer.loop.keeper import StateKeeper
from concertina_trainer.loop.last_save import SETTLE_SECONDS, save_together
from concertina_trainer.loop.saving import Saver


class Ending(Enum):
    """Why the loop ended."""

    FINISHED = auto()
    LEFT = auto()
    EXCLUDED = auto()
    """A round went on without this worker; it must start anew before it may join again."""


def save_last(keeper: StateKeeper, saver: Saver, *, membership: Membership) -> None:
    """A round has no members: save what there is. Raises TrainingFailed when it is not durable."""
    # After an abandoned step, or a round that broke, the state is held, not live.
    held = [keeper.hold()] if keeper.live is not None else keeper.held
    if not saver.can_save or saver.expects_all_of(membership):
        for holding in held[:1]:
            saver.save_now(holding)
    elif not _save_held(keeper, saver, settle_seconds=SETTLE_SECONDS):
        raise TrainingFailed("the last state is not saved: workers that held parts of it are gone")


def save_without_operator(keeper: StateKeeper, saver: Saver, *, within_seconds: float) -> None:
    """No membership comes any more: save what survivors hold between them.

    They give up within this time of each other, or within SETTLE_SECONDS.
    """
    _save_held(keeper, saver, settle_seconds=min(within_seconds, SETTLE_SECONDS))


def _save_held(keeper: StateKeeper, saver: Saver, *, settle_seconds: float) -> bool:
    """Save what the workers that are left hold between them; False if nothing is.

    Pods that must end were told at once: they need not wait for each other for long.
    """
    own = [keeper.hold()] if keeper.live is not None else keeper.held
    held = [(holding, False) for holding in own]
    return save_together(
        saver,
        [*held, *keeper.snapshots.offers()],
        settle_seconds=min(settle_seconds, saver.final_seconds / 8),
    )
