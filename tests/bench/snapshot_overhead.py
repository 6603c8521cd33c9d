"""What snapshots and checkpoints cost a step, at 25M and 125M parameters.

    python tests/bench/snapshot_overhead.py [--quick] [--pairs N]

One session of two workers in two pods. A snapshot (or a checkpoint) is taken after a step, and as
many steps follow as it needs to be complete; as many quiet steps are taken beside them, before or
after in random order. `seconds` is the median difference of such pairs with its 95 % interval: what
one snapshot costs the loop, whatever goes on in the background. `every_steps` is the interval at
which that is one per cent of the step time, which is what the trainer aims at by default, and
`default_every_steps` the one that it has found itself; `share` is the cost at its own interval.
A checkpoint's cost is shared by the steps of ten minutes, the default interval.

`ratio` is the time of quiet steps over that of all steps at the trainer's own interval, so 1 means
that snapshots cost nothing and 0.99 is the aim.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist

from tests import worlds
from tests.bench.figures import Spread, arguments, interval, line, rounded
from tests.bench.tasks import sized

WORLD_SIZE = 2
NUM_MICRO_BATCHES = 4
MAX_COST = 0.01
CHECKPOINT_SECONDS = 600.0
SETTLING_STEPS = 60
"""Steps after which the trainer's own interval is read: it goes on to settle for some hundreds."""
WARM_PAIRS = 2


Pair = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds, on one rank."""

    snapshot: list[Pair]
    """Steps with a snapshot under way, and as many quiet ones."""
    checkpoint: list[Pair]
    step: list[float]
    """Of quiet steps."""
    every_steps: int
    """The interval that the trainer has found."""


def measure(job: Mapping[str, Any], folder: str, port: int, pairs: int) -> Times:
    """Body of a rank."""
    from tests.bench.driver import run_step, training

    with training(job, Path(folder), port=port) as (session, task):
        steps = iter(session)
        keeper, snapshots, saver = session.keeper, session.keeper.snapshots, session._saver
        for _ in range(SETTLING_STEPS):
            run_step(steps, task)
        found = snapshots.facts.every_steps
        assert found, f"no snapshots: {snapshots.facts.off}"
        snapshots._interval = replace(snapshots._interval, fixed=10**6)  # from here on by hand

        def under_way() -> bool:
            return snapshots._transfer is not None

        while anywhere(under_way()):
            run_step(steps, task)
        saver.reserve(keeper.hold())

        def snapshot() -> None:
            snapshots.take(keeper.hold())

        def checkpoint() -> None:
            saver.save(keeper.hold())

        def step() -> None:
            run_step(steps, task)

        kinds = {
            "snapshot": pairs_of(snapshot, under_way, step),
            "checkpoint": pairs_of(checkpoint, lambda: saver._writer.pending, step),
        }
        pairs_by_kind: dict[str, list[Pair]] = {kind: [] for kind in kinds}
        quiet: list[float] = []
        for _ in range(WARM_PAIRS + pairs):
            for kind, turns in kinds.items():
                with_it, without, count = next(turns)
                pairs_by_kind[kind].append((with_it, without))
                quiet.append(without / count)
    return Times(
        snapshot=pairs_by_kind["snapshot"][WARM_PAIRS:],
        checkpoint=pairs_by_kind["checkpoint"][WARM_PAIRS:],
        step=quiet,
        every_steps=found,
    )


def pairs_of(
    begin: Callable[[], None], is_under_way: Callable[[], bool], step: Callable[[], None]
) -> Iterator[tuple[float, float, int]]:
    """Seconds of steps with it and of as many without, and how many, again and again."""
    order = random.Random(0)
    count = 1
    while True:
        seconds = {}
        for kind in order.sample(("with", "without"), k=2):
            dist.barrier()
            start = time.perf_counter()
            if kind == "with":
                begin()
            for _ in range(count):
                step()
            seconds[kind] = time.perf_counter() - start
        more = 0
        while anywhere(is_under_way()):
            step()
            more += 1
        yield seconds["with"], seconds["without"], count
        count += more  # the next pair sees all of it


def anywhere(flag: bool) -> bool:
    """Whether it holds on any rank."""
    held = torch.tensor(flag, dtype=torch.int32)
    dist.all_reduce(held, op=dist.ReduceOp.MAX)
    return bool(held)


def compare(size: str, *, pairs: int) -> list[Times]:
    """Times by rank."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    job = sized(size, batch=NUM_MICRO_BATCHES)
    with tempfile.TemporaryDirectory() as folder:
        return worlds.run(
            measure, WORLD_SIZE, job, f"{folder}/run", store.port, pairs, timeout_seconds=3600
        )


def differences(ranks: Sequence[Sequence[Pair]]) -> list[float]:
    """How much longer it takes with it, by pair, on the slowest rank of each."""
    found = []
    for pairs in zip(*ranks, strict=True):
        with_it, without = zip(*pairs, strict=True)
        found.append(max(with_it) - max(without))
    return found


def facts_of(ranks: Sequence[Times]) -> dict[str, Any]:
    """What is shown of one size."""
    step = median(ranks[0].step)
    snapshot = interval(differences([r.snapshot for r in ranks]))
    checkpoint = interval(differences([r.checkpoint for r in ranks]))
    every = ranks[0].every_steps
    return {
        "step_seconds": rounded(step),
        "snapshot_seconds": snapshot.to_json(),
        "every_steps": max(1, ceil(snapshot.median / (MAX_COST * step))),
        "default_every_steps": every,
        "share": rounded(snapshot.median / (every * step)),
        "checkpoint_seconds": checkpoint.to_json(),
        "checkpoint_share": rounded(checkpoint.median / CHECKPOINT_SECONDS),
    }


def ratio_of(facts: Mapping[str, Any]) -> Spread:
    """Quiet steps over all steps, at the trainer's own interval."""
    of_steps = facts["default_every_steps"] * facts["step_seconds"]
    values = [of_steps / (of_steps + seconds) for seconds in facts["snapshot_seconds"]]
    return Spread(median=values[0], low=min(values), high=max(values))


def main() -> None:
    parser = arguments("snapshots and checkpoints beside quiet steps")
    parser.add_argument("--pairs", type=int, help="pairs of each kind, for each model")
    options = parser.parse_args()
    pairs = options.pairs or (4 if options.quick else 20)
    facts = {}
    for size in ("tiny",) if options.quick else ("25m", "125m"):
        facts[size] = facts_of(compare(size, pairs=pairs))
        print(size, facts[size], flush=True)
    cases = {size: ratio_of(fact) for size, fact in facts.items()}
    print(line("snapshot_overhead", cases, pairs=pairs, facts=facts))


if __name__ == "__main__":
    main()
