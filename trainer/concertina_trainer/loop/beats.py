"""What a worker tells the others of its round in each beat, and how often they beat.

The session (loop/session.py) makes it, steps and evaluations ask for it; the beat itself and what
all make of it are in rounds/control.py.
"""

from concertina_trainer.loop.equipment import Equipment
from concertina_trainer.loop.rounds import Rounds
from concertina_trainer.rounds.control import BEAT_SECONDS, Flags


class Beats:
    """What one worker knows, as flags."""

    def __init__(self, equipment: Equipment, rounds: Rounds) -> None:
        self._keeper = equipment.keeper
        self._saver = equipment.saver
        self._inbox = equipment.inbox
        self._rounds = rounds
        self._told_at: float | None = None
        """When the notice was first seen that the pod must end, in time.monotonic()."""
        self.stop = False
        """The task of this worker has asked to stop."""

    def flags(self, slots_left: int) -> Flags:
        """What this worker knows as a beat begins, with so many micro-batches before it."""
        return Flags(
            round=self._rounds.newest(),
            stop=self.stop,
            checkpoint=self._saver.is_due() or self._waits_in_vain(),
            abandon=self._cannot_finish(slots_left),
            snapshot=self._snapshot_is_due(),
            held=self._keeper.snapshots.held,
        )

    def _waits_in_vain(self) -> bool:
        """Whether half of the pod's grace is over, no round without it has come, nothing is saved.

        No operator may be left to publish one: all pods of the job may end, and their memory.
        """
        grace_left = self._inbox.grace_left()
        if grace_left is None:
            return False
        now = self._inbox.now()
        self._told_at = now if self._told_at is None else self._told_at
        return now - self._told_at > grace_left and self._saver.may_save(since=self._told_at)

    def _snapshot_is_due(self) -> bool:
        """Whether the leader asks for one; never of a state whose steps are being skipped."""
        live, progress = self._keeper.live, self._keeper.progress
        leads = live is not None and live.groups.rank == 0
        skipping = progress.skipped_in_a_row > 0
        return leads and not skipping and self._keeper.snapshots.is_due(progress.step)

    def _cannot_finish(self, slots_left: int) -> bool:
        """Whether the pod must end before this step is likely to."""
        grace_left = self._inbox.grace_left()
        if grace_left is None:
            return False
        return slots_left * self._keeper.progress.micro_batch_seconds > grace_left / 2


def beat_every(micro_batch_seconds: float) -> int:
    """Micro-batches between two beats, from a time that all ranks agree on."""
    return max(1, int(BEAT_SECONDS / micro_batch_seconds)) if micro_batch_seconds > 0 else 1
