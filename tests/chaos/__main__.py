"""Breaks runs at random and judges them: `python -m tests.chaos --where local --runs 20 --seed 1`.

Prints a row a run and a summary; the folder of a run that violates an invariant is kept. Each run
can be had again with its seed. Ends with 1 when an invariant was violated.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.job import SAMPLES
from tests.chaos.outcome import Judged
from tests.chaos.schedule import Fault, Where, draw


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # An end by SIGTERM undoes what is broken, as one by the keyboard does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    where = Where(options.where)
    only = [Fault(name) for name in options.only.split(",") if name]
    kept = Path(tempfile.mkdtemp(prefix="concertina-chaos-"))
    began, judged = time.monotonic(), list[Judged]()
    with _hitter(where, kept) as hit:
        for seed in range(options.seed, options.seed + options.runs):
            strikes = draw(seed, where=where, samples=SAMPLES, only=only)
            work = kept / str(seed)
            one = hit(work, strikes)
            judged.append(one)
            print(f"seed {seed:6} {one.row()}", flush=True)
            if not one.violations:
                shutil.rmtree(work)
    bad = [one for one in judged if one.violations]
    minutes = (time.monotonic() - began) / 60
    print(
        f"{len(judged)} runs in {minutes:.1f} minutes, {len(bad)} violate an invariant", flush=True
    )
    if bad:
        print(f"their folders are in {kept}")
    else:
        shutil.rmtree(kept)
    return 1 if bad else 0


def _hitter(where: Where, kept: Path):
    match where:
        case Where.LOCAL:
            from tests.chaos.local_runs import LocalRuns

            return LocalRuns(kept)
        case Where.KUBELET:
            from tests.chaos.kubelet_runs import KubeletRuns

            return KubeletRuns(kept)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--where", choices=list(Where), default=Where.LOCAL)
    parser.add_argument("--runs", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--only", default="", help="faults to draw among, with commas")
    return parser


if __name__ == "__main__":
    sys.exit(main())
