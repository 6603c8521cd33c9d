"""Goodput with a failure every 60 s and every 15 s, against torchrun with its best checkpoints.

    python tests/bench/goodput.py [--quick] [--seconds N]

Goodput is the share of the time in steps that counted: steps that were run again, restarts, pauses
and checkpoints are what is missing. Every so many seconds a worker, chosen by a seed, gets a kill -9,
on both sides at the same times. torchrun's interval between checkpoints is the best of a few that
are tried first under the same failures, by the samples that it gets done. `ratio` is ours / torchrun,
of the worst rate and of one run of each; a kill finds nobody while a side has no workers.

Beside it `samples`: samples of the surviving history in a second over those of the same side without
failures, which also counts that three workers are slower than four. torchft has published 81 % and
13 % of goodput at these two rates, with a model and machines of its own (1B parameters, 300 GPUs,
steps of 10.9 s): shown for the reader, not compared.
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.figures import Spread, arguments, line, rounded
from tests.bench.sides import Row, Side, goodput, ours, rival, steps_lost, surviving, wait_steady

PUBLISHED_TORCHFT = {60: 0.81, 15: 0.13}
FAILURE_SECONDS = (60, 15)
CANDIDATES = (2.0, 5.0, 10.0, 20.0)
"""Seconds between checkpoints that torchrun is tried with."""
STEADY_STEPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run under failures, or without."""

    goodput: float
    steps_per_second: float
    """Of the surviving history."""
    steps_lost: int
    failures: int


def measured(
    opened: AbstractContextManager[Side], *, seconds: float, failure_seconds: float, seed: int
) -> Trial:
    """Break a training for a while; 0 failure seconds: leave it alone."""
    choice = random.Random(seed)
    with opened as side:
        wait_steady(side, steps=STEADY_STEPS)
        begin = time.time()
        failures = 0
        while time.time() < begin + seconds:
            # Failures come by the clock: waiting for a worker would spare a side that is slow.
            following = begin + (failures + 0.5) * (failure_seconds or 2 * seconds)
            time.sleep(max(0.0, min(following, begin + seconds) - time.time()))
            workers = side.workers()
            if time.time() < begin + seconds and workers:
                os.kill(workers[choice.choice(sorted(workers))], signal.SIGKILL)
            failures += failure_seconds > 0 and time.time() < begin + seconds
        return trial_of(side.rows(), begin=begin, end=time.time(), failures=failures)


def trial_of(rows: Sequence[Row], *, begin: float, end: float, failures: int) -> Trial:
    """The judgement on the rows of a run."""
    before = max((row["step"] for row in surviving(rows) if row["time"] < begin), default=0)
    after = max((row["step"] for row in surviving(rows) if row["time"] <= end), default=0)
    return Trial(
        goodput=goodput(rows, begin=begin, end=end),
        steps_per_second=(after - before) / (end - begin),
        steps_lost=steps_lost(rows),
        failures=failures,
    )


def best_interval(
    folder: Path, *, size: str, seconds: float, failure_seconds: float, candidates: Sequence[float]
) -> float:
    """The seconds between checkpoints with which torchrun does best under these failures."""
    found = {
        every: measured(
            rival(folder / f"try-{failure_seconds}-{every}", size=size, checkpoint_seconds=every),
            seconds=seconds,
            failure_seconds=failure_seconds,
            seed=1,
        ).steps_per_second
        for every in candidates
    }
    print("torchrun", failure_seconds, {k: rounded(v) for k, v in found.items()}, flush=True)
    return max(found, key=lambda every: found[every])


def compare(
    size: str, *, seconds: float, rates: Sequence[int], candidates: Sequence[float]
) -> dict[str, Any]:
    """Trials by rate and side."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calm = {
            "ours": measured(
                ours(folder / "calm-ours", size=size), seconds=seconds / 4,
                failure_seconds=0, seed=0,
            ),
            "torchrun": measured(
                rival(folder / "calm-rival", size=size, checkpoint_seconds=60.0),
                seconds=seconds / 4, failure_seconds=0, seed=0,
            ),
        }  # fmt: skip
        for rate in rates:
            every = best_interval(
                folder, size=size, seconds=max(rate, seconds / 4), failure_seconds=rate,
                candidates=candidates,
            )  # fmt: skip
            sides = {
                "ours": ours(folder / f"ours-{rate}", size=size),
                "torchrun": rival(folder / f"rival-{rate}", size=size, checkpoint_seconds=every),
            }
            rows: dict[str, Any] = {"checkpoint_seconds": every}
            for side, opened in sides.items():
                trial = measured(opened, seconds=seconds, failure_seconds=rate, seed=0)
                share = trial.steps_per_second / calm[side].steps_per_second
                rows[side] = {**asdict(trial), "samples": share}
                print(size, f"every {rate} s", side, rows[side], flush=True)
            found[str(rate)] = rows
    return found


def main() -> None:
    parser = arguments("goodput under failures, against torchrun with its best checkpoints")
    parser.add_argument("--seconds", type=float, help="of each run under failures")
    options = parser.parse_args()
    size = "tiny" if options.quick else "25m"
    seconds = options.seconds or (20.0 if options.quick else 300.0)
    rates = (15,) if options.quick else FAILURE_SECONDS
    candidates = CANDIDATES[1:2] if options.quick else CANDIDATES
    found = compare(size, seconds=seconds, rates=rates, candidates=candidates)
    cases = {}
    for rate, rows in found.items():
        ratio = rows["ours"]["goodput"] / max(rows["torchrun"]["goodput"], 1e-9)
        cases[f"{size} every {rate} s"] = Spread(median=ratio, low=ratio, high=ratio)
    print(line("goodput", cases, seconds=seconds, found=found, torchft=PUBLISHED_TORCHFT))


if __name__ == "__main__":
    main()
