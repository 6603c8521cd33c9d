"""How long training paused for a resize, and how long a loss had gone unseen.

The rounds (loop/rounds.py) tell what happens as it happens; a round that begins ends the pause.
Times are those of time.perf_counter(), in seconds.
"""

import time

from concertina_trainer.rounds.phases import Phases


class Pause:
    """The present pause of one worker, or the next one."""

    def __init__(self) -> None:
        self._from: float | None = None
        """When the newest step, or piece of an evaluation, ended; None before the first."""
        self._last_sign: float | None = None
        """When the workers of a round that broke were last known to be alive."""
        self._told_at = 0.0

    def stepped(self) -> None:
        """A step or a piece of an evaluation has ended: a pause would begin now."""
        self._from = time.perf_counter()

    def broke(self, *, last_sign: float | None) -> None:
        """A round broke, `last_sign` after which nothing was heard; the first of several counts."""
        self._last_sign = self._last_sign or last_sign or self._from

    def told(self) -> None:
        """A newer membership is to be entered."""
        self._told_at = time.perf_counter()

    def end(self, phases: Phases) -> tuple[float, float | None]:
        """The pause, and the time until a loss was told; None when nothing broke."""
        if self._from is not None:
            pause = time.perf_counter() - self._from
        else:
            # A joiner has no step to count from: what it saw is all but the first wait.
            pause = sum(phases.seconds.values()) - phases.seconds["greet"]
        detection = None if self._last_sign is None else self._told_at - self._last_sign
        self._last_sign = None
        return pause, detection
