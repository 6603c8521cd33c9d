"""Run schedules: `python -m tests.simulation [--seed N] [--schedules M] [--processes P] [--trace]`."""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.history import Counts
from tests.simulation.world import Outcome, run_schedule


def main() -> int:
    """Exit code 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first schedule's")
    parser.add_argument("--schedules", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="print what happens")
    parser.add_argument("--stop", action="store_true", help="at the first broken promise")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.schedules)
    counts, broken, events, seconds = Counts(), 0, 0, 0.0
    for outcome in outcomes(seeds, processes=arguments.processes, traced=arguments.trace):
        print(*outcome.trace, sep="\n", end="\n" if outcome.trace else "")
        counts.add(outcome.counts)
        events, seconds = events + outcome.events, seconds + outcome.seconds
        if outcome.violation:
            broken += 1
            print(
                f"seed {outcome.seed} at {outcome.seconds:.1f} s: {outcome.violation}", flush=True
            )
            if arguments.stop:
                break
    print(summary(counts, events=events, seconds=seconds))
    spent = sum(os.times()[:4])  # of the processes that have ended, too
    print(f"{len(seeds)} schedules, {broken} with a broken promise, {spent:.1f} s of CPU")
    return int(broken > 0)


def outcomes(seeds: range, *, processes: int, traced: bool = False):
    """Outcomes in the order of seeds."""
    if processes == 1:
        yield from (run_schedule(seed, traced=traced) for seed in seeds)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(run_schedule, seeds, chunksize=20)


def summary(counts: Counts, *, events: int, seconds: float) -> str:
    """What was covered."""
    lines = [f"{events} events in {seconds / 3600:.1f} virtual hours"]
    for name in Counts.__slots__:
        value = getattr(counts, name)
        if isinstance(value, dict):
            told = ", ".join(f"{key} {number}" for key, number in sorted(value.items()))
            lines.append(f"{name}: {told}")
        else:
            lines.append(f"{name}: {value}")
    return "\n".join(lines)


__all__ = ["Outcome", "main"]

if __name__ == "__main__":
    sys.exit(main())
