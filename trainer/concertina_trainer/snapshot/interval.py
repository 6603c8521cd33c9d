"""How many steps lie between two snapshots: as few as a given share of the step time pays for.

Pure: no I/O, no clock. Every worker keeps it, so that whoever leads next goes on with its own
measurements; only the leader's counts.

How much longer steps last under a snapshot is a small difference of two times that vary. Of the
mean of so many differences, deviation / number is allowed for chance and not charged: at first that
is much, so snapshots are frequent and their cost is soon known; in the long run it is nothing. (The
standard error, deviation / sqrt(number), would go too slowly: 1.3 % instead of 1 % of the step time
over the first thousand steps, where steps vary by a sixth and a snapshot costs a tenth of one.)

Where losses come so often that the steps lost cost more than snapshots do, these are taken as often
as makes both least (Young 1974), whatever share that is.
"""

from dataclasses import dataclass, replace
from math import ceil, sqrt

from concertina_trainer.checkpoint.interval import PRIOR_SECONDS, young

WEIGHT = 0.3
"""Of the newest measurement in the running means."""
LONGER_WEIGHT = 0.1
"""The same of how much longer steps last, once there were as many as make a mean of that."""
FIRST_STEPS = 10
"""Steps between snapshots before there is a measurement, and the most before there is a good one."""
MAX_STEPS = 10**6
MAX_GROWTH = 4
"""One snapshot that was slow by chance moves the interval by this factor at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """What snapshots cost, and the interval that follows. Seconds are those of one worker."""

    max_cost: float
    """Largest share of the step time, as long as losses are rare."""
    fixed: int | None = None
    """The interval of the manifest, which the cost does not change."""
    steps: int = FIRST_STEPS
    """What the cost allows."""
    loss_seconds: float = PRIOR_SECONDS
    """Mean time between losses."""
    quiet_slot_seconds: float | None = None
    """Mean time of a micro-batch in steps of this world without a snapshot under way."""
    slots: float = 1.0
    """Mean number of micro-batches in a step."""
    lasted_steps: float = 1.0
    """Mean number of steps in which a snapshot is under way."""
    waited_seconds: float | None = None
    """Mean time that steps wait for a snapshot."""
    longer_seconds: float = 0.0
    """Mean of how much longer steps last meanwhile; differences by chance cancel out in it."""
    longer_variance: float | None = None
    """Mean square of how far they are from it; None before the second."""
    num_longer: int = 0
    """Snapshots that were measured for it."""
    is_bound: bool = True
    """Only snapshots that had to get their memory were measured: later ones cost at most that."""

    @property
    def every_steps(self) -> int:
        """Steps from one snapshot until the next is due."""
        if self.fixed is not None:
            return self.fixed
        if self._snapshot_steps is None:
            return self.steps
        best = young(self._snapshot_steps, self.loss_seconds / self._step_seconds)
        return self.steps if best >= self.steps else max(1, round(best))

    @property
    def between_steps(self) -> int:
        """Steps that really lie between two: the next can begin a step after one is complete."""
        return max(self.every_steps, round(self.lasted_steps) + 1)

    @property
    def snapshot_seconds(self) -> float | None:
        """What a snapshot takes from the steps; None before it is measured."""
        if self.waited_seconds is None:
            return None
        if self.longer_variance is None:  # all of it may be chance
            return self.waited_seconds
        by_chance = sqrt(self.longer_variance) / self.num_longer
        return self.waited_seconds + max(0.0, self.longer_seconds - by_chance)

    @property
    def cost(self) -> float:
        """Share of the step time that snapshots take at this interval; 0 before it is measured."""
        return (self._snapshot_steps or 0.0) / self.between_steps

    def in_new_world(self) -> "Interval":
        """A round has begun: other workers, and its first steps are longer than the later ones."""
        return replace(self, quiet_slot_seconds=None)

    def after_quiet(self, seconds: float, *, slots: int) -> "Interval":
        """A step of so many micro-batches ran without a snapshot under way."""
        known = replace(
            self,
            quiet_slot_seconds=_mean(self.quiet_slot_seconds, seconds / slots),
            slots=_mean(self.slots, slots) if self.quiet_slot_seconds else float(slots),
        )
        return replace(known, steps=known._wanted_steps()) if self.is_bound else known

    def after_snapshot(
        self,
        waited: float,
        *,
        seconds: float,
        slots: int,
        num_steps: int = 1,
        is_bound: bool = False,
    ) -> "Interval":
        """A snapshot is complete: the loop `waited` for it, and steps took `seconds` meanwhile.

        `slots` are the micro-batches of those `num_steps` steps. Without a quiet step to compare
        with, nothing is known of how much longer they took. `is_bound`: it had to get its memory,
        which is paid for once; only the wait counts then, while nothing better is known.
        """
        if is_bound and not self.is_bound:
            return self
        measured = replace(
            self,
            waited_seconds=_mean(None if self.is_bound else self.waited_seconds, waited),
            lasted_steps=_mean(self.lasted_steps, num_steps),
            is_bound=is_bound,
        )
        if self.quiet_slot_seconds is not None and not is_bound:
            measured = measured._with_longer(seconds - slots * self.quiet_slot_seconds)
        return replace(measured, steps=measured._wanted_steps())

    def _with_longer(self, longer: float) -> "Interval":
        number, off = self.num_longer + 1, longer - self.longer_seconds
        weight = max(LONGER_WEIGHT, 1 / number)
        return replace(
            self,
            longer_seconds=_mean(self.longer_seconds, longer, weight=weight),
            longer_variance=_mean(self.longer_variance, off**2, weight=weight)
            if self.num_longer
            else None,
            num_longer=number,
        )

    @property
    def _step_seconds(self) -> float:
        return (self.quiet_slot_seconds or 0.0) * self.slots

    @property
    def _snapshot_steps(self) -> float | None:
        """In the time of how many steps a snapshot is paid for; None before both are measured."""
        if self.snapshot_seconds is None or not self.quiet_slot_seconds:
            return None
        return self.snapshot_seconds / self._step_seconds

    def _wanted_steps(self) -> int:
        """ceil(cost / (max cost x step time)), not far from the present interval."""
        if self._snapshot_steps is None:
            return self.steps
        wanted = ceil(self._snapshot_steps / self.max_cost)
        if self.is_bound:  # what is paid once is no reason to wait longer
            return max(1, min(wanted, FIRST_STEPS))
        lowest, highest = self.steps // MAX_GROWTH, self.steps * MAX_GROWTH
        return max(1, min(max(wanted, lowest), highest, MAX_STEPS))


def _mean(mean: float | None, newest: float, *, weight: float = WEIGHT) -> float:
    return newest if mean is None else mean + weight * (newest - mean)
