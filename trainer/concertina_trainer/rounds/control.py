"""Agreement on the control plane: all workers act alike after the same step.

At the start of a step, and every quarter of a second within a long one, each worker starts a beat:
an all-reduce of what it knows, on the round's gloo group, while the step goes on. The newest beat
that ended counts. A flag raised after a beat began counts in the next one.
"""

import contextlib
from dataclasses import dataclass

import torch
import torch.distributed as dist

from concertina_trainer.rounds.transport import Groups
from concertina_trainer.rounds.waiting import GRACE_SECONDS, finish

NONE = -1
"""No snapshot of this round is held yet."""
FAILED = -2
"""A snapshot of this round cannot be completed."""
BEAT_SECONDS = 0.25
"""Time between two beats of a long step: how late an abandoned step is noticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What one worker knows, or what all agreed on."""

    round: int
    """Newest round that this worker sees."""
    stop: bool = False
    checkpoint: bool = False
    abandon: bool = False
    """The step cannot be finished before a pod must end."""
    snapshot: bool = False
    held: int = NONE
    """Step of the newest snapshot of this round of which this worker holds both shards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What all workers of the round know."""

    round: int | None
    """Newest round that all see alike; None while some have not seen it."""
    stop: bool
    checkpoint: bool
    abandon: bool
    snapshot: bool
    held: int
    """Step of the newest snapshot of this round of which every worker holds both shards."""


class Control:
    """Beats over the control group of one round."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._pending: tuple[torch.Tensor, dist.Work] | None = None
        self._latest = Agreement(
            round=None, stop=False, checkpoint=False, abandon=False, snapshot=False, held=NONE
        )

    def beat(self, flags: Flags) -> Agreement:
        """Collect the beat under way and start the next; all ranks call it at the same places."""
        latest = self.collect()
        raised = [flags.stop, flags.checkpoint, flags.abandon, flags.snapshot]
        numbers = [flags.round, -flags.round, -flags.held, *raised]
        vector = torch.tensor(numbers, dtype=torch.int64)
        work = dist.all_reduce(
            vector, op=dist.ReduceOp.MAX, group=self._groups.control, async_op=True
        )
        assert work is not None
        self._pending = vector, work
        return latest

    def collect(self, *, grace_seconds: float = GRACE_SECONDS) -> Agreement:
        """Wait for the beat under way, if any, and return what was agreed last.

        `grace_seconds` as in `waiting.finish`.
        """
        if self._pending is not None:
            vector, work = self._pending
            self._pending = None
            control = self._groups.control
            finish(work, self._groups, control, grace_seconds=grace_seconds)
            newest, oldest, held, stop, checkpoint, abandon, snapshot = vector.tolist()
            self._latest = Agreement(
                round=newest if newest == -oldest else None,
                stop=bool(stop),
                checkpoint=bool(checkpoint),
                abandon=bool(abandon),
                snapshot=bool(snapshot),
                held=-held,
            )
        return self._latest

    def drop(self) -> None:
        """Let the beat under way come to its end, however it ends, after a break-off.

        A group of which something is still under way could not be closed.
        """
        with contextlib.suppress(RuntimeError):
            self.collect()
