"""kill -9 of one of four workers: until training is where it was, against torchrun with checkpoints.

    python tests/bench/recovery.py [--quick] [--repeats N] [--checkpoint-seconds S]

Both sides train the same model with four workers on this machine and lose the same rank in the
same way, in turns. Counted from the signal: `detection`, until the loss is answered (ours: a
membership without the worker is published; torchrun: the other workers are ended); `resumed`, until
the first step after it begins; `back`, until a step ends that had not been done before. `ratio` is
the median over pairs of torchrun / ours of `back`, with its range.

torchrun restarts on the spot, on one node, which is the least that it can cost; its checkpoints are
saved in the background every S seconds (`dcp.async_save`). Ours goes on with three workers and takes
the fourth back when it is warm. A second table stops workers (SIGSTOP of a whole pod): only ours is
measured, since torchrun does not notice that before the process group's timeout.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.figures import arguments, line, ranged, ratios, rounded
from tests.bench.sides import Ours, Side, ours, rival, steps_lost, wait, wait_steady

STEADY_STEPS = 8
RANKS = (2, 0, 3, 1)
"""Who is killed, in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What one loss cost."""

    detection: float
    """Seconds."""
    resumed: float
    back: float
    steps_lost: int
    step_seconds: float
    """Median of the steps before."""


def lose(side: Side, *, rank: int, number: signal.Signals) -> Recovery:
    """Send a signal to a worker (or, to stop it, to its pod) and watch what follows."""
    wait_steady(side, steps=STEADY_STEPS)
    workers = side.workers()
    before = list(side.rows())
    last = before[-1]["step"]
    victims = [workers[rank]]
    if number is signal.SIGSTOP and isinstance(side, Ours):
        victims.append(side.agent_of(workers[rank]))
    begun = time.time()
    for pid in victims:
        os.kill(pid, number)
    noticed = wait(side, lambda: side.has_noticed(workers), "the loss is noticed")
    rows = list(before)

    def is_back() -> bool:
        rows[:] = side.rows()
        return (
            rows[-1]["step"] > max(last, highest(rows, until=begun)) and rows[-1]["time"] > noticed
        )

    wait(side, is_back, "training is where it was")
    after = [row for row in rows if row["time"] - row["seconds"] > noticed]
    recovery = Recovery(
        detection=noticed - begun,
        resumed=after[0]["time"] - after[0]["seconds"] - begun,
        back=after[-1]["time"] - begun,
        steps_lost=steps_lost(rows) - steps_lost(before),
        step_seconds=median(row["seconds"] for row in before[-STEADY_STEPS:]),
    )
    if number is signal.SIGSTOP:
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):  # it was lost, so it was ended
                os.kill(pid, signal.SIGCONT)
    return recovery


def highest(rows: Sequence[Any], *, until: float) -> int:
    """The largest step that was done by a moment."""
    return max((row["step"] for row in rows if row["time"] <= until), default=0)


def compare(size: str, *, repeats: int, checkpoint_seconds: int) -> dict[str, list[Recovery]]:
    """Losses by side, taken in turns."""
    found: dict[str, list[Recovery]] = {"ours": [], "torchrun": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats):
            rank = RANKS[number % len(RANKS)]
            sides = [
                ours(Path(folder, f"ours-{number}"), size=size, checkpoint_seconds=60),
                rival(
                    Path(folder, f"rival-{number}"),
                    size=size,
                    checkpoint_seconds=checkpoint_seconds,
                ),
            ]
            for entered in sides if number % 2 == 0 else sides[::-1]:
                with entered as side:
                    recovery = lose(side, rank=rank, number=signal.SIGKILL)
                found[side.name].append(recovery)
                print(size, f"rank {rank}", side.name, shown(recovery), flush=True)
    return found


def silences(size: str, *, repeats: int) -> list[Recovery]:
    """Stopped pods of ours."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats):
            with ours(Path(folder, f"silent-{number}"), size=size) as side:
                found.append(lose(side, rank=RANKS[number % len(RANKS)], number=signal.SIGSTOP))
            print(size, "silent", shown(found[-1]), flush=True)
    return found


def shown(recovery: Recovery) -> dict[str, float]:
    """For a reader."""
    return {key: rounded(value) for key, value in asdict(recovery).items()}


def spreads(found: Sequence[Recovery]) -> dict[str, list[float]]:
    """[median, low, high] of everything."""
    rows = [asdict(recovery) for recovery in found]
    return {key: ranged([row[key] for row in rows]).to_json() for key in rows[0]}


def main() -> None:
    parser = arguments("kill -9 of one of four workers, against torchrun with checkpoints")
    parser.add_argument("--repeats", type=int, help="losses of each side, for each model")
    parser.add_argument("--checkpoint-seconds", type=int, default=15, help="of torchrun")
    options = parser.parse_args()
    size = "tiny" if options.quick else "25m"
    repeats = options.repeats or (1 if options.quick else 4)
    found = compare(size, repeats=repeats, checkpoint_seconds=options.checkpoint_seconds)
    silent = silences(size, repeats=max(1, repeats // 2))
    pairs = ratios([r.back for r in found["torchrun"]], [r.back for r in found["ours"]])
    print(
        line(
            "recovery",
            {f"{size} kill -9": ranged(pairs)},
            repeats=repeats,
            checkpoint_seconds=options.checkpoint_seconds,
            ours=spreads(found["ours"]),
            torchrun=spreads(found["torchrun"]),
            silent=spreads(silent),
        )
    )


if __name__ == "__main__":
    main()
