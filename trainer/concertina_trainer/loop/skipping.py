"""Decides what follows from skipped steps: training is over, or goes back to a snapshot.

Called by the session (loop/session.py) after each step, on all ranks alike; which steps are
skipped is decided in schedule/spikes.py. Pure: no I/O, no clock.
"""

from concertina_api.errors import Diverged
from concertina_api.v1alpha1 import Training
from concertina_trainer.loop.progress import Progress
from concertina_trainer.schedule.spikes import WHY, Skipped


def check_skipped(progress: Progress, newest: Skipped | None, *, training: Training) -> None:
    """Raise Diverged when the `newest` step of `progress` is one too many in a row."""
    in_a_row, limit = progress.skipped_in_a_row, training.max_skipped_steps
    if newest is not None and in_a_row > limit:
        raise Diverged(
            f"{in_a_row} steps in a row were skipped (limit {limit}), the last, step"
            f" {progress.step}, because {WHY[newest]}"
        )


def is_roll_back_due(progress: Progress, newest: Skipped | None, *, training: Training) -> bool:
    """Whether skipping does not help: so many were skipped in a row that an older state is due."""
    after = training.roll_back_after
    return after is not None and newest is not None and progress.skipped_in_a_row % after == 0
