"""What is told of a resize: the report's numbers, and a line of the log.

The reporter (loop/reporting.py) calls it when a round begins.
"""

import logging

from concertina_api.v1alpha1 import Resize
from concertina_trainer.loop.live import Live
from concertina_trainer.rounds.phases import Phases
from concertina_trainer.rounds.transaction import Entered

log = logging.getLogger(__name__)


def resize_of(
    entered: Entered,
    live: Live,
    *,
    step: int,
    phases: Phases,
    pause_seconds: float,
    detection_seconds: float | None,
) -> Resize:
    """The resize that led to the objects of a round, which begins after `step`."""
    losses = entered.losses
    return Resize(
        round=live.round,
        world_size_before=losses.world_size,
        world_size=live.groups.world_size,
        step=step,
        pause_seconds=round(pause_seconds, 5),
        phases=phases.seconds,
        source=_source(entered, step),
        lost=losses.workers,
        steps_lost=max(0, losses.step - step),
        detection_seconds=detection_seconds if losses.workers else None,
    )


def log_resize(resize: Resize) -> None:
    """One line for people."""
    shown = ", ".join(f"{name} {seconds:.3f}" for name, seconds in resize.phases.items())
    log.info(
        "round %d: %d -> %d workers at step %d, pause %.3f s (%s), state from %s",
        resize.round,
        resize.world_size_before,
        resize.world_size,
        resize.step,
        resize.pause_seconds,
        shown,
        resize.source,
    )


def _source(entered: Entered, step: int) -> str:
    """Where the state of a round came from."""
    if entered.source is None:
        return "checkpoint" if step else "seed"
    return "snapshot" if entered.source.snapshot else "memory"
