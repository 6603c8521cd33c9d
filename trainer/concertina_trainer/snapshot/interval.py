"""How many steps lie between two snapshots: as few as a given share of the step time pays for.

Pure: no I/O, no clock. Every worker keeps it, so that whoever leads next goes on with its own
measurements; only the leader's counts.
"""

from dataclasses import dataclass, replace
from math import ceil

WEIGHT = 0.3
"""Of the newest measurement in the running means."""
LONGER_WEIGHT = 0.1
"""The same of how much longer steps last, which is a small difference of two that vary."""
FIRST_STEPS = 10
"""Steps between snapshots before there is a measurement, and the most before there is a good one."""
MAX_STEPS = 10**6
MAX_GROWTH = 4
"""One snapshot that was slow by chance moves the interval by this factor at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """What snapshots cost, and the interval that follows. Seconds are those of one worker."""

    max_cost: float
    """Largest share of the step time."""
    fixed: int | None = None
    """The interval of the manifest, which the cost does not change."""
    steps: int = FIRST_STEPS
    quiet_slot_seconds: float | None = None
    """Mean time of a micro-batch in steps without a snapshot under way."""
    slots: float = 1.0
    """Mean number of micro-batches in a step."""
    waited_seconds: float | None = None
    """Mean time that steps wait for a snapshot."""
    longer_seconds: float = 0.0
    """Mean of how much longer steps last meanwhile; differences by chance cancel out in it."""
    is_bound: bool = True
    """Only snapshots that had to get their memory were measured: later ones cost at most that."""

    @property
    def every_steps(self) -> int:
        """Steps between two snapshots."""
        return self.steps if self.fixed is None else self.fixed

    @property
    def snapshot_seconds(self) -> float | None:
        """What a snapshot takes from the steps; None before it is measured."""
        if self.waited_seconds is None:
            return None
        return self.waited_seconds + max(0.0, self.longer_seconds)

    @property
    def cost(self) -> float:
        """Share of the step time that snapshots take at this interval; 0 before it is measured."""
        if self.snapshot_seconds is None or not self.quiet_slot_seconds:
            return 0.0
        return self.snapshot_seconds / (self.every_steps * self._step_seconds)

    def after_quiet(self, seconds: float, *, slots: int) -> "Interval":
        """A step of so many micro-batches ran without a snapshot under way."""
        known = replace(
            self,
            quiet_slot_seconds=_mean(self.quiet_slot_seconds, seconds / slots),
            slots=_mean(self.slots, slots) if self.quiet_slot_seconds else float(slots),
        )
        return replace(known, steps=known._wanted_steps()) if self.is_bound else known

    def after_snapshot(
        self, waited: float, *, seconds: float, slots: int, is_bound: bool = False
    ) -> "Interval":
        """A snapshot is complete: the loop `waited` for it, and steps took `seconds` meanwhile.

        `slots` are the micro-batches of those steps. Without a quiet step to compare with,
        nothing is known of how much longer they took. `is_bound`: it had to get its memory, which
        is paid for once; that counts while nothing better is known.
        """
        if is_bound and not self.is_bound:
            return self
        longer = 0.0
        if self.quiet_slot_seconds is not None:
            longer = seconds - slots * self.quiet_slot_seconds
        is_first = self.waited_seconds is None or self.is_bound
        measured = replace(
            self,
            waited_seconds=_mean(None if is_first else self.waited_seconds, waited),
            longer_seconds=_mean(
                None if is_first else self.longer_seconds, longer, weight=LONGER_WEIGHT
            ),
            is_bound=is_bound,
        )
        return replace(measured, steps=measured._wanted_steps())

    @property
    def _step_seconds(self) -> float:
        return (self.quiet_slot_seconds or 0.0) * self.slots

    def _wanted_steps(self) -> int:
        """ceil(cost / (max cost x step time)), not far from the present interval."""
        if self.snapshot_seconds is None or not self.quiet_slot_seconds:
            return self.steps
        wanted = ceil(self.snapshot_seconds / (self.max_cost * self._step_seconds))
        if self.is_bound:  # what is paid once is no reason to wait longer
            return max(1, min(wanted, FIRST_STEPS))
        lowest, highest = self.steps // MAX_GROWTH, self.steps * MAX_GROWTH
        return max(1, min(max(wanted, lowest), highest, MAX_STEPS))


def _mean(mean: float | None, newest: float, *, weight: float = WEIGHT) -> float:
    return newest if mean is None else mean + weight * (newest - mean)
