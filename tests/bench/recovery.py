"""kill -9 of one of four workers: until training is where it was, against torchrun with checkpoints.

    python tests/bench/recovery.py [--quick] [--repeats N] [--checkpoint-seconds S]

Both sides train the same model with four workers on this machine and lose the same rank in the
same way, in turns. Counted from the signal: `detection`, until the loss is answered (ours: a
membership without the worker is published; torchrun: the other workers are ended); `resumed`, until
the first step after it begins; `back`, until a step ends that had not been done before. `ratio` is
the median over pairs of torchrun / ours of `back`, with its range.

torchrun restarts on the spot, on one node, which is the least that it can cost; its checkpoints are
saved in the background every S seconds (`dcp.async_save`). Ours goes on with three workers and takes
the fourth back when it is warm. A second table is of pods: one whose agent and worker are killed
with -9, and who falls silent: a pod or its worker alone that is stopped (SIGSTOP), and a pod whose
network is cut (as root). Only ours is measured: torchrun has no second agent here, and does not
notice silence before the process group's timeout.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.figures import arguments, line, ranged, ratios, rounded
from tests.bench.sides import Ours, Side, ours, rival, steps_lost, wait, wait_steady
from tests.bench.tasks import JOB
from tests.e2e import halves

STEADY_STEPS = 8
RANKS = (2, 0, 3, 1)
"""Who is broken, in turn."""
ALONE = (sys.executable, "-m", "tests.e2e.halves", f"{JOB}-1")
"""The command of agents of which one is in a half of the network of its own."""


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


Break = Callable[[Side, int], AbstractContextManager[None]]
"""Entered, it breaks the worker of a rank; left, it undoes that as far as it can."""


@contextmanager
def killed(side: Side, pid: int) -> Iterator[None]:
    """kill -9 of a worker."""
    del side
    os.kill(pid, signal.SIGKILL)
    yield


@contextmanager
def killed_with_agent(side: Side, pid: int) -> Iterator[None]:
    """kill -9 of all of a pod."""
    assert isinstance(side, Ours)
    for victim in (side.agent_of(pid), pid):
        with contextlib.suppress(ProcessLookupError):  # a worker ends with its agent
            os.kill(victim, signal.SIGKILL)
    yield


@contextmanager
def stopped(side: Side, pid: int, *, pod: bool) -> Iterator[None]:
    """SIGSTOP of a worker, or of all of its pod."""
    assert isinstance(side, Ours)
    victims = [pid, side.agent_of(pid)] if pod else [pid]
    for victim in victims:
        os.kill(victim, signal.SIGSTOP)
    yield
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):  # it was lost, so it was ended
            os.kill(victim, signal.SIGCONT)


@contextmanager
def cut(side: Side, pid: int) -> Iterator[None]:
    """Cut the network of the pod that is alone in its half, whichever its rank."""
    del side, pid
    halves.cut()
    yield
    halves.heal()


def lose(side: Side, *, rank: int, broken: Break) -> Recovery:
    """Break a worker and watch what follows."""
    wait_steady(side, steps=STEADY_STEPS)
    workers = side.workers()
    before = list(side.rows())
    last = before[-1]["step"]
    begun = time.time()
    with broken(side, workers[rank]):
        noticed = wait(side, lambda: side.has_noticed(workers), "the loss is noticed")
        rows = list(before)

        def is_back() -> bool:
            rows[:] = side.rows()
            return (
                rows[-1]["step"] > max(last, highest(rows, until=begun))
                and rows[-1]["time"] > noticed
            )

        wait(side, is_back, "training is where it was")
    after = [row for row in rows if row["time"] - row["seconds"] > noticed]
    return Recovery(
        detection=noticed - begun,
        resumed=after[0]["time"] - after[0]["seconds"] - begun,
        back=after[-1]["time"] - begun,
        steps_lost=steps_lost(rows) - steps_lost(before),
        step_seconds=median(row["seconds"] for row in before[-STEADY_STEPS:]),
    )


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
                    recovery = lose(side, rank=rank, broken=killed)
                found[side.name].append(recovery)
                print(size, f"rank {rank}", side.name, shown(recovery), flush=True)
    return found


def losses_of_pods(size: str, *, repeats: int) -> dict[str, list[Recovery]]:
    """Other losses of ours, by kind; but for the first they close no connection."""
    kinds: dict[str, Break] = {
        "killed pod": killed_with_agent,
        "stopped pod": partial(stopped, pod=True),
        "stopped worker": partial(stopped, pod=False),
    }
    if os.geteuid() == 0:
        kinds["cut network"] = cut
    found: dict[str, list[Recovery]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        if "cut network" in kinds:
            stack.enter_context(halves.joined())
        for number in range(repeats):
            for kind, broken in kinds.items():
                rank, place = RANKS[number % len(RANKS)], Path(folder, f"{kind}-{number}")
                agent = ALONE if broken is cut else ()
                with ours(place, size=size, agent_command=agent) as side:
                    found[kind].append(lose(side, rank=rank, broken=broken))
                print(size, kind, shown(found[kind][-1]), flush=True)
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
    pods = losses_of_pods(size, repeats=max(1, repeats // 2))
    pairs = ratios([r.back for r in found["torchrun"]], [r.back for r in found["ours"]])
    print(
        line(
            "recovery",
            {f"{size} kill -9": ranged(pairs)},
            repeats=repeats,
            checkpoint_seconds=options.checkpoint_seconds,
            ours=spreads(found["ours"]),
            torchrun=spreads(found["torchrun"]),
            pods={kind: spreads(recoveries) for kind, recoveries in pods.items()},
        )
    )


if __name__ == "__main__":
    main()
