"""Bugs that are planted to see whether the simulation finds them.

Each takes a promise of the product or of the model away, by replacing one name while a schedule
runs. What is replaced is in `Planted.seam`; what it breaks is said in one line.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from concertina_operator import plan as planning
from concertina_operator import situation
from concertina_trainer.loop.ending import Ending
from concertina_trainer.loop.rounds import Rounds
from concertina_trainer.rounds import desk, transaction, watch
from concertina_trainer.rounds.phases import LAST_SAVE
from concertina_trainer.snapshot import snapshots
from concertina_trainer.snapshot.snapshots import Snapshots
from tests.simulation.agent import Agent
from tests.simulation.faults import LOST_ANSWERS
from tests.simulation.operators import Operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """One bug."""

    name: str
    seam: tuple[Any, str]
    """Whose name is replaced."""
    bug: Callable[[Any], Any]
    """The wrong one, made from the right one."""
    faults: tuple[str, ...] = ()
    """What must go wrong for it to show; schedules of these alone are enough, and quicker."""


@contextlib.contextmanager
def planted(bug: Planted) -> Iterator[None]:
    """The bug is there."""
    where, name = bug.seam
    right = where.__dict__[name]
    setattr(where, name, bug.bug(right))
    try:
        yield
    finally:
        setattr(where, name, right)


def _incomplete_source(right: Callable) -> Callable:
    """Takes the newest state, whether every part of it is present or not."""

    def source_of(greetings: Any) -> Any:
        parts = [part for greeting in greetings for part in greeting.parts]
        source = right(greetings)
        if source is None or not parts:
            return source
        newest = max(part.state for part in parts)
        holders = [
            next(
                (
                    number
                    for number, greeting in enumerate(greetings)
                    for part in greeting.parts
                    if part.state == newest and part.rank == rank
                ),
                None,
            )
            for rank in range(newest.world_size)
        ]
        if None not in holders or newest <= source.state:
            return source
        first = next(holder for holder in holders if holder is not None)
        filled = tuple(first if holder is None else holder for holder in holders)
        return replace(
            source,
            step=newest.step,
            round=newest.round,
            world_size=newest.world_size,
            holders=filled,
        )

    return source_of


def _ends_alone(right: Callable) -> Callable:
    """Who has written its part of the last checkpoint does not wait for rank 0."""

    def finish(self: Any) -> None:
        self._reached(LAST_SAVE)
        self._saver.save_now(self._keeper.hold())
        self.end(Ending.FINISHED)

    return finish


def _commits_alone(right: Callable) -> Callable:
    """The leader commits when it is done itself."""

    def finish(self: Any, *, new_ranks: Any, superseded: Any) -> bool:
        return right(self, new_ranks=new_ranks[:1], superseded=superseded)

    return finish


def _deaf_watch(right: Callable) -> Callable:
    """A newer round never ends a wait."""
    return lambda *_, **__: False


def _same_incarnation(right: Callable) -> Callable:
    """Workers that are started anew call themselves what the old ones did."""

    def begin(self: Any) -> None:
        self._starts = 0
        right(self)

    return begin


def _round_of_membership(right: Callable) -> Callable:
    """The number of a round is one above the membership's, whatever the status says."""

    def understand(observed: Any, *, now: Any) -> Any:
        found = right(observed, now=now)
        number = 1 + (observed.membership.round if observed.membership else 0)
        return replace(found, number=number)

    return understand


def _overwrites_early(right: Callable) -> Callable:
    """A set is filled again before all workers hold the newest."""

    def take(self: Any, holding: Any) -> None:
        newest, self._newest = self._newest, None
        for each in self._sets:
            each.drop()
        right(self, holding)
        self._newest = newest

    return take


def _hasty_round(right: Callable) -> Callable:
    """A loss is not told: the round goes on with who was lost."""

    def attendance(*arguments: Any, **facts: Any) -> Any:
        there = right(*arguments, **facts)
        return replace(there, lost=())

    return attendance


def _goes_without_the_others(right: Callable) -> Callable:
    """A participant goes ahead when it has seen half of the others."""

    def greet(self: Any, greeting: Any, *, superseded: Any) -> Any:
        whole = self._participants
        self._participants = whole[: max(self.index + 1, (len(whole) + 1) // 2)]
        try:
            return right(self, greeting, superseded=superseded)
        finally:
            self._participants = whole

    return greet


def _keeps_the_newest(right: Callable) -> Callable:
    """The newest snapshot that is whole stays, however many losses would break it."""
    del right

    def kept_of(greetings: Any) -> Any:
        ranks: dict[Any, set[int]] = {}
        for greeting in greetings:
            for part in greeting.parts:
                if part.snapshot:
                    ranks.setdefault(part.state, set()).add(part.rank)
        whole = (state for state, found in ranks.items() if len(found) == state.world_size)
        return max(whole, default=None)

    return kept_of


def _keeps_none(right: Callable) -> Callable:
    """A commit drops all snapshots."""
    return lambda self, _: right(self, None)


def _keeper_in_the_same_pod(right: Callable) -> Callable:
    """The next rank keeps a worker's part, though it may be in the same pod."""

    def neighbours(rank: int, *, world_size: int, workers_per_pod: int) -> Any:
        del workers_per_pod
        return right(rank, world_size=world_size, workers_per_pod=1)

    return neighbours


def _draws_names(right: Callable) -> Callable:
    """Every pod has a name of its own, which nobody knows whose answer is lost."""
    numbers = count(1000)

    def create(self: Any, name: str) -> None:
        drawn = f"{name.rpartition('-')[0]}-{next(numbers)}"
        try:
            right(self, drawn)
        finally:
            self._unanswered.discard(drawn)

    return create


def _looks_at_nothing(right: Callable) -> Callable:
    """What became of creations that were not answered, the watch will tell some time."""
    del right
    return lambda _: None


BUGS = (
    Planted(
        name="the source of a round lacks a part",
        seam=(transaction, "source_of"),
        bug=_incomplete_source,
    ),
    Planted(
        name="the leader commits without done of all",
        seam=(desk.Desk, "finish"),
        bug=_commits_alone,
    ),
    Planted(
        name="a round begins without all participants",
        seam=(desk.Desk, "greet"),
        bug=_goes_without_the_others,
    ),
    Planted(
        name="the watch ignores a newer round",
        seam=(watch, "is_hopeless"),
        bug=_deaf_watch,
        faults=("node dies", "freeze a pod", "cut a pod off"),
    ),
    Planted(
        name="restarted workers keep their incarnation",
        seam=(Agent, "_begin"),
        bug=_same_incarnation,
    ),
    Planted(
        name="the round's number comes from the membership alone",
        seam=(planning, "understand"),
        bug=_round_of_membership,
    ),
    Planted(
        name="a loss is not told",
        seam=(situation, "attendance"),
        bug=_hasty_round,
        faults=("kill a pod", "kill two pods", "node dies"),
    ),
    Planted(
        name="a snapshot is overwritten before the next is complete",
        seam=(Snapshots, "take"),
        bug=_overwrites_early,
        faults=("kill a worker", "kill a pod"),
    ),
    Planted(
        name="the newest snapshot is kept, though more losses would break it",
        seam=(transaction, "kept_of"),
        bug=_keeps_the_newest,
    ),
    Planted(
        name="a part of the last checkpoint is enough",
        seam=(Rounds, "finish"),
        bug=_ends_alone,
        faults=(LAST_SAVE,),
    ),
    Planted(
        name="a commit drops the snapshots",
        seam=(Snapshots, "keep"),
        bug=_keeps_none,
    ),
    Planted(
        name="a snapshot is kept in the pod that it is of",
        seam=(snapshots, "neighbours"),
        bug=_keeper_in_the_same_pod,
    ),
    Planted(
        name="pods have names that are not known before the answer",
        seam=(Operator, "_create"),
        bug=_draws_names,
        faults=(LOST_ANSWERS, "api slow"),
    ),
    Planted(
        name="nobody looks at pods whose creation was not answered",
        seam=(Operator, "_look_at_unanswered"),
        bug=_looks_at_nothing,
    ),
)
"""All of them."""
