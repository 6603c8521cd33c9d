"""The training state of the simulation, and the judge who knows everything.

A state is a node in a tree: what was trained, on which samples, after which other state. No two
executions of a step give the same node, so a state put together from two histories shows at once.
The judge is told what happens and compares it with what the design promises; what it finds is
raised as Violation.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from concertina_trainer.schedule.controller import BatchState


class Violation(AssertionError):
    """A promise of the design is broken."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class State:
    """The state after a step, or the initial one."""

    number: int
    step: int
    samples: int
    first_sample: int
    """The step that led here consumed [first_sample, samples)."""
    batch: BatchState
    parent: "State | None"

    def chain(self) -> Iterator["State"]:
        """This state and all before it, newest first."""
        node: State | None = self
        while node is not None:
            yield node
            node = node.parent

    def __repr__(self) -> str:
        return f"s{self.step}#{self.number}"


@dataclass(frozen=True, slots=True)
class Shard:
    """What one worker holds of a state."""

    state: State
    world_size: int
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A state that is whole in memory, and who holds its parts."""

    state: State
    holders: tuple[tuple[str, ...], ...]
    """Keys of workers by old rank."""

    @property
    def num_breakers(self) -> int:
        """Workers that hold a part which no other holds: the loss of any of them breaks it."""
        return len({held[0] for held in self.holders if len(set(held)) == 1})

    def among(self, keys: Iterable[str]) -> "Snapshot | None":
        """What is left of it among some workers; None when a part is missing."""
        there = set(keys)
        left = tuple(tuple(key for key in held if key in there) for held in self.holders)
        return Snapshot(state=self.state, holders=left) if all(left) else None


@dataclass(slots=True)
class Counts:
    """What happened, so that the coverage is visible."""

    steps: int = 0
    steps_lost: int = 0
    plans: int = 0
    rounds: int = 0
    commits: int = 0
    given_up: int = 0
    snapshots: int = 0
    checkpoints: int = 0
    losses: int = 0
    sources: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Counts") -> None:
        """Sum, field by field."""
        for name in self.__slots__:
            mine, its = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                for key, value in its.items():
                    mine[key] = mine.get(key, 0) + value
            else:
                setattr(self, name, mine + its)


class Judge:
    """Knows the history of one job."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.head: State | None = None
        """The newest state of the surviving history."""
        self.committed = 0
        """The newest round that was committed."""
        self._rounds: set[int] = set()
        """All that were."""
        self.members: tuple[str, ...] = ()
        """Keys of its workers by rank."""
        self.live: dict[str, State | None] = {}
        """What each worker holds live or from its last round; None while a step changes it."""
        self.snapshot: Snapshot | None = None
        """The one that must outlast what happens: the newest of which all were told that it is
        complete, or what a commit had to keep in place of it."""
        self.discarded: dict[State, None] = {}
        self.last_step_at = 0.0

    @staticmethod
    def check(holds: bool, promise: str) -> None:
        """Raises Violation unless the promise holds."""
        if not holds:
            raise Violation(promise)

    def changes(self, state: State, *, number: int, worker: str) -> None:
        """A worker has done its part of a step.

        Each is judged by itself: who was excluded while it was cut off or frozen may do a step
        until it learns of that, even one that members of the new round have done before.
        """
        self.check(
            number >= self.committed or worker not in self.members,
            f"{worker} does step {state.step} of round {number}, though it is in round"
            f" {self.committed}",
        )

    def stepped(self, state: State, *, number: int, now: float) -> None:
        """All workers of a round have done a step.

        One of an older round is no part of the history: see `changes`.
        """
        self.counts.steps += 1
        if number < self.committed:
            return
        self.check(
            state.parent is self.head,
            f"{state!r} of round {number} goes on from {state.parent!r}, not from {self.head!r}",
        )
        self.head = state
        self.last_step_at = now

    def complete(self, state: State, *, holders: tuple[tuple[str, ...], ...]) -> None:
        """All workers of the round were told that a snapshot is whole."""
        if self.snapshot is None or state.step > self.snapshot.state.step:
            self.counts.snapshots += 1
            self.snapshot = Snapshot(state=state, holders=holders)

    def exchanged(self, shards: Iterable[Shard], *, number: int) -> State:
        """A round puts a state together from these parts."""
        found = list(shards)
        states = {id(shard.state): shard.state for shard in found}
        self.check(len(states) == 1, f"round {number} mixes {sorted(map(repr, states.values()))}")
        size, ranks = found[0].world_size, sorted(shard.rank for shard in found)
        self.check(
            ranks == list(range(size)) and all(shard.world_size == size for shard in found),
            f"round {number} takes up parts {ranks} of {size} of {found[0].state!r}",
        )
        return found[0].state

    def commits(
        self,
        state: State,
        *,
        number: int,
        source: str,
        members: tuple[str, ...],
        participants: Iterable[str],
        snapshots: Sequence[Snapshot],
    ) -> None:
        """A round is committed; its members go on from the state.

        `snapshots` are all that members hold whole, newest first.
        """
        self.check(number > self.committed, f"round {number} commits after round {self.committed}")
        self._check_source(state, number=number, source=source, present=set(participants))
        kept = set(state.chain())
        if self.head is not None:
            gone = [one for one in self.head.chain() if one not in kept]
            self.counts.steps_lost += len(gone)
            self.discarded.update(dict.fromkeys(gone))
        for one in kept:
            self.discarded.pop(one, None)
        self.snapshot = self._kept(snapshots, number=number, members=members, history=kept)
        self.counts.commits += 1
        self.counts.sources[source] = self.counts.sources.get(source, 0) + 1
        self.head, self.committed, self.members = state, number, members
        self._rounds.add(number)
        self.live = dict.fromkeys(members, state)

    def learns(self, number: int, *, worker: str) -> None:
        """Another worker of a round has learnt that it is committed.

        Who was cut off may learn it when a later round has gone on without it; see `changes`.
        """
        self.check(number in self._rounds, f"{worker} enters round {number}, not committed")
        self.check(
            number == self.committed or worker not in self.members,
            f"{worker} enters round {number}, though it is in round {self.committed}",
        )

    def completed(self, *, total: int, saved: State | None) -> None:
        """The job says that it is completed; `saved` is what the newest checkpoint holds."""
        self.check(self.head is not None, "completed before anything was trained")
        assert self.head is not None
        self.check(saved is self.head, f"completed with {self.head!r}, but {saved!r} is saved")
        end = self.head.samples
        self.check(end >= total, f"completed after {end} of {total} samples")
        for state in self.head.chain():
            self.check(
                state.samples == end,
                f"{state!r} ends with sample {state.samples}, the next begins with {end}",
            )
            end = state.first_sample
        self.check(end == 0, f"the first step begins with sample {end}")

    def _kept(
        self,
        snapshots: Sequence[Snapshot],
        *,
        number: int,
        members: tuple[str, ...],
        history: Collection[State],
    ) -> Snapshot | None:
        """The snapshot that must stay in memory: the one that the fewest losses would break.

        The members keep one of them, to have room for the first of their round. What a loss has
        left in single parts gives way to what is safer, or newer and as safe.
        """
        before = self.snapshot.among(members) if self.snapshot is not None else None
        there = [one for one in snapshots if one.state in history]
        if before is not None and before.state in history:
            self.check(
                any(one.state is before.state for one in there),
                f"the members of round {number} do not hold the snapshot of {before.state!r}",
            )
        return min(there, key=lambda one: one.num_breakers, default=None)

    def _check_source(self, state: State, *, number: int, source: str, present: set[str]) -> None:
        """The newest state that the participants have between them is taken, and nothing else."""
        told = f"round {number} takes up {state!r} from {source}"
        states = {self.live.get(key) for key in self.members}
        if self.members and present.issuperset(self.members) and len(states) == 1:
            newest = states.pop()
            self.check(
                newest is None or state is newest,
                f"{told}, though all workers that hold {newest!r} take part",
            )
        if self.snapshot is not None and self.snapshot.among(present) is not None:
            self.check(
                state.step >= self.snapshot.state.step,
                f"{told}, though the participants hold the snapshot of {self.snapshot.state!r}",
            )
        self.check(
            source == "checkpoint" or state not in self.discarded,
            f"{told}, which an earlier round has discarded",
        )
