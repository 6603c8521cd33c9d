"""What survivors of a round save together when no round will join them again.

Called by loop/ending.py. Each of them holds parts: its own of the state that it trained and of
snapshots, and its neighbour's of snapshots. They have no connections any more, so they tell each
other by claims in the storage (checkpoint/claims.py): first everybody claims its own parts, then
those of a neighbour that has not claimed them. The newest state of which all parts are claimed is
saved; it needs a part of every survivor, so all of them know it and choose alike.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread

from concertina_api.errors import TrainingFailed
from concertina_trainer.checkpoint.claims import claim, is_whole, newest_first
from concertina_trainer.checkpoint.format import Identity
from concertina_trainer.checkpoint.publish import SaveDropped, named, read_latest
from concertina_trainer.checkpoint.storage import Storage
from concertina_trainer.loop.saving import Saver
from concertina_trainer.sharding.state import Holding

log = logging.getLogger(__name__)

SETTLE_SECONDS = 15.0
"""Survivors that give up within this time of each other save together."""
POLL_SECONDS = 0.2

Parts = dict[tuple[Identity, int], Holding]
"""By state and rank."""


def save_together(
    saver: Saver,
    parts: Iterable[tuple[Holding, bool]],
    *,
    settle_seconds: float = SETTLE_SECONDS,
) -> bool:
    """Save this worker's share of the newest state that survivors hold between them, if any.

    `parts`: what is in memory, and whether each is kept for a neighbour. False when nothing is
    saved; why is told in the log: this worker ends one way or another.
    """
    if not saver.can_save:
        return False
    own: Parts = {}
    kept: Parts = {}
    for part, copied in parts:
        # Of a state that is held and in a snapshot too, either part will do.
        (kept if copied else own).setdefault((saver.identity_of(part), part.rank), part)
    survivor = _Survivor(storage=saver.storage, own=own, kept=kept, settle_seconds=settle_seconds)
    try:
        # First, because a save of the same state that is dropped takes its parts away.
        dropped = saver.drop_pending(within_seconds=settle_seconds)
        share = survivor.share() if dropped else None
        if share is None:
            log.warning("%s does not answer: nothing is saved", saver.storage.location)
            return False
        # Whoever has rank 0's part waits for all others, its own ones too.
        for part in sorted(share, key=lambda part: part.rank, reverse=True):
            saver.save_now(part)
    except (OSError, SaveDropped, TrainingFailed) as error:
        log.warning("nothing is saved: %s", error)
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Survivor:
    """What one worker claims."""

    storage: Storage
    own: Parts
    kept: Parts
    settle_seconds: float

    def share(self) -> list[Holding] | None:
        """The parts that this worker saves; they are all of one state.

        None when the storage does not answer. Raises OSError, SaveDropped.
        """
        answers: SimpleQueue[list[Holding] | OSError | SaveDropped] = SimpleQueue()

        def agree() -> None:
            try:
                answers.put(self._agree())
            except (OSError, SaveDropped) as error:
                answers.put(error)

        # A daemon: a process that must end does not wait for a storage that blocks for ever.
        Thread(target=agree, name="concertina-claims", daemon=True).start()
        try:
            answer = answers.get(timeout=4 * self.settle_seconds)
        except Empty:
            return None
        if isinstance(answer, OSError | SaveDropped):
            raise answer
        return answer

    def _agree(self) -> list[Holding]:
        states = newest_first(identity for identity, _ in (*self.own, *self.kept))
        if states and named(read_latest(self.storage)) == states[0].folder:
            return []  # it is durable already
        mine = self._claim(self.own)
        if not self._wait(states[:1]):
            mine |= self._claim(self.kept)
            self._wait(states[:1])
        chosen = self._whole(states)
        if chosen is None:
            raise SaveDropped("the survivors hold no state whole")
        log.info("survivors save step %d of round %d together", chosen.step, chosen.round)
        return [part for (identity, _), part in mine.items() if identity == chosen]

    def _claim(self, parts: Parts) -> Parts:
        """Those that nobody else has claimed."""
        return {
            (identity, rank): part
            for (identity, rank), part in parts.items()
            if claim(self.storage, identity=identity, rank=rank)
        }

    def _whole(self, states: list[Identity]) -> Identity | None:
        """The first of which all parts are claimed."""
        return next((each for each in states if is_whole(self.storage, identity=each)), None)

    def _wait(self, states: list[Identity]) -> bool:
        """Whether one of them becomes whole within the time that survivors give each other."""
        end = time.monotonic() + self.settle_seconds
        while (found := self._whole(states)) is None and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return found is not None
