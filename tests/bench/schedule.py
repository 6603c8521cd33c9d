"""The batch schedule against constant batches: loss, steps and time of whole, annealed runs.

    python tests/bench/schedule.py [--quick | --full] [--jobs 2]

Small byte-level language models on the sources of the standard library; every run is a session of
one process with a learning rate that is annealed over its own budget of samples, so that final
losses compare. Each schedule runs with several budgets; between budgets the final loss is
interpolated over log(samples), time over loss. Runs are kept in a folder (`--folder`), so that an
interrupted bench goes on where it was.

The batch does not depend on the world size, so a run on one worker gives the steps of a run on
many. Their time follows from measured step times: a step of N micro-batches on W workers lasts
ceil(N / W) micro-batches and a constant, W being the smallest allowed size with at most k
micro-batches per worker. The time of a micro-batch and the constants at W = 1 and W = 2 are
measured here, in turns; larger W are charged like W = 2.

`ratio` is the modelled time of the smallest constant batch over that of NormTest with the default
eta, both annealed to the same final loss: median over seeds and their range, the worst budget.
"""

import json
import math
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from concertina_api.batch import accumulation, workers_for
from tests import worlds
from tests.bench.figures import Spread, arguments, line, ranged, rounded
from tests.bench.schedule_runs import (
    MICRO_BATCH,
    STUDIES,
    Plan,
    Run,
    Study,
    all_runs,
    manifest,
    plans_of,
)

WORLD_SIZES = (1, 2, 4, 8)
MAX_ACCUMULATIONS = (2, 4)
OURS, RIVAL = "NormTest .8", "constant 8"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Seconds of which a step consists."""

    micro_batch: float
    alone: float
    """What a step of one worker takes besides micro-batches."""
    together: float
    """The same with communication."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Modelled cost of a run."""

    seconds: float
    worker_seconds: float


def time_steps(job: Mapping[str, Any], folder: str, port: int, steps: int) -> list[float]:
    """Body of a rank: seconds of steps of a constant batch."""
    from tests.bench.driver import run_step, training

    with training(job, Path(folder), port=port) as (session, task):
        turns = iter(session)
        while run_step(turns, task):
            pass
        rows = Path(folder, "steps.jsonl").read_text().splitlines()
    return [json.loads(row)["seconds"] for row in rows if '"loss"' in row]


def measured_step_times(study: Study, *, steps: int, repeats: int) -> StepTimes:
    """Fit t = micro-batch ceil(N / W) + constant to short runs of N = 2, 8 at W = 1, 2."""
    from torch.distributed import TCPStore

    seen: dict[tuple[int, int], list[float]] = {}
    for _ in range(repeats):
        for world_size in (1, 2):
            for count in (2, 8):
                batch = MICRO_BATCH * count
                plan = Plan(study=study.name, schedule="constant 8", budget=steps * batch, seed=0)
                job = manifest(plan)
                job["spec"]["batch"] |= {"initial": batch, "max": batch}
                store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
                with tempfile.TemporaryDirectory() as folder:
                    ranks = worlds.run(
                        time_steps, world_size, job, f"{folder}/run", store.port, steps
                    )
                seen.setdefault((world_size, count), []).extend(ranks[0][steps // 4 :])
    time = {case: median(seconds) for case, seconds in seen.items()}
    micro_batch = (time[1, 8] - time[1, 2]) / 6
    return StepTimes(
        micro_batch=micro_batch,
        alone=max(0.0, time[1, 2] - 2 * micro_batch),
        together=max(0.0, time[2, 2] - micro_batch),
    )


def cost(run: Run, times: StepTimes, *, max_accumulation: int) -> Cost:
    """Modelled time of a run whose workers follow its batch."""
    seconds = worker_seconds = 0.0
    for batch, steps in run.batches:
        count = -(-batch // MICRO_BATCH)
        least = workers_for(count, max_accumulation)
        workers = next((size for size in WORLD_SIZES if size >= least), WORLD_SIZES[-1])
        constant = times.alone if workers == 1 else times.together
        spent = steps * (accumulation(count, workers) * times.micro_batch + constant)
        seconds += spent
        worker_seconds += workers * spent
    return Cost(seconds=seconds, worker_seconds=worker_seconds)


def interpolated(points: Iterable[tuple[float, float]], x: float) -> float | None:
    """y at x on the line through points, which may come in any order; None outside of them."""
    ordered = sorted(points)
    for (x0, y0), (x1, y1) in pairwise(ordered):
        if x0 <= x <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return None


def rival_costs(
    runs: Mapping[Plan, Run], plan: Plan, rival: str, times: StepTimes, *, max_accumulation: int
) -> Cost | None:
    """What `rival`, annealed to the loss of `plan`'s run, costs; None outside its budgets."""
    seconds, worker_seconds = [], []
    for other, run in runs.items():
        if (other.schedule, other.seed) == (rival, plan.seed):
            spent = cost(run, times, max_accumulation=max_accumulation)
            seconds.append((run.loss, math.log(spent.seconds)))
            worker_seconds.append((run.loss, math.log(spent.worker_seconds)))
    log_seconds = interpolated(seconds, runs[plan].loss)
    log_worker_seconds = interpolated(worker_seconds, runs[plan].loss)
    if log_seconds is None or log_worker_seconds is None:
        return None
    return Cost(seconds=math.exp(log_seconds), worker_seconds=math.exp(log_worker_seconds))


def speedups(
    runs: Mapping[Plan, Run], rival: str, times: StepTimes, *, max_accumulation: int
) -> dict[str, dict[str, Spread]]:
    """Time and worker-time of the rival over ours at equal final loss, by our budget."""
    found: dict[str, dict[str, Spread]] = {}
    for budget in sorted({plan.budget for plan in runs}):
        pairs = []
        for plan, run in runs.items():
            if (plan.schedule, plan.budget) != (OURS, budget):
                continue
            theirs = rival_costs(runs, plan, rival, times, max_accumulation=max_accumulation)
            if theirs is not None:
                pairs.append((theirs, cost(run, times, max_accumulation=max_accumulation)))
        if pairs:
            found[f"{budget} samples, k={max_accumulation}"] = {
                "time": ranged([theirs.seconds / own.seconds for theirs, own in pairs]),
                "worker_time": ranged(
                    [theirs.worker_seconds / own.worker_seconds for theirs, own in pairs]
                ),
            }
    return found


def table(runs: Mapping[Plan, Run], times: StepTimes) -> dict[str, Any]:
    """Means over seeds, by schedule and budget."""
    groups: dict[tuple[str, int], list[Run]] = {}
    for plan, run in runs.items():
        groups.setdefault((plan.schedule, plan.budget), []).append(run)
    found: dict[str, Any] = {}
    for (schedule, budget), group in groups.items():
        losses = [run.loss for run in group]
        row: dict[str, Any] = {
            "loss": [rounded(fmean(losses)), rounded(pstdev(losses))],
            "steps": rounded(fmean(run.steps for run in group)),
        }
        for k in MAX_ACCUMULATIONS:
            costs = [cost(run, times, max_accumulation=k) for run in group]
            row[f"seconds k={k}"] = rounded(fmean(c.seconds for c in costs))
            row[f"worker_seconds k={k}"] = rounded(fmean(c.worker_seconds for c in costs))
        found.setdefault(schedule, {})[str(budget)] = row
    return found


def at_equal_steps(runs: Mapping[Plan, Run]) -> dict[str, list[float]]:
    """Loss of each constant batch minus ours at as many steps, by schedule; mean and range."""
    names = sorted({plan.schedule for plan in runs if plan.schedule.startswith("constant")})
    found = {}
    for name in names:
        differences = []
        for plan, run in runs.items():
            if plan.schedule != OURS:
                continue
            points = [
                (math.log(other_run.steps), other_run.loss)
                for other, other_run in runs.items()
                if (other.schedule, other.seed) == (name, plan.seed)
            ]
            loss = interpolated(points, math.log(run.steps))
            if loss is not None:
                differences.append(loss - run.loss)
        if differences:
            found[name] = ranged(differences).to_json()
    return found


def main() -> None:
    parser = arguments("the batch schedule against constant batches")
    parser.add_argument("--full", action="store_true", help="a model of the demo's size")
    parser.add_argument("--seeds", type=int, help="runs of each kind")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-schedule"))
    parser.add_argument(
        "--times", type=float, nargs=3, metavar=("MICRO_BATCH", "ALONE", "TOGETHER"),
        help="step times in seconds instead of measured ones",
    )  # fmt: skip
    options = parser.parse_args()
    study = STUDIES["quick" if options.quick else "full" if options.full else "small"]
    if options.times:
        micro_batch, alone, together = options.times
        times = StepTimes(micro_batch=micro_batch, alone=alone, together=together)
    else:
        steps, repeats = (30, 1) if options.quick else (60, 5)
        times = measured_step_times(study, steps=steps, repeats=repeats)
    seeds = options.seeds or (1 if options.quick else 3)
    runs = all_runs(list(plans_of(study, seeds)), options.folder, jobs=options.jobs)
    print(report(study, runs, times))


def report(study: Study, runs: Mapping[Plan, Run], times: StepTimes) -> str:
    """The line of JSON."""
    unit = StepTimes(micro_batch=1.0, alone=1.0, together=1.0)
    cases: dict[str, Spread] = {}
    others: dict[str, Any] = {}
    rivals = sorted({plan.schedule for plan in runs} - {OURS})
    for k in MAX_ACCUMULATIONS:
        for rival in rivals:
            for label, model in (("measured", times), ("t_micro = t_step = 1", unit)):
                found = speedups(runs, rival, model, max_accumulation=k)
                if (rival, label) == (RIVAL, "measured"):
                    cases |= {name: pair["time"] for name, pair in found.items()}
                shown = {
                    name: {key: spread.to_json() for key, spread in pair.items()}
                    for name, pair in found.items()
                }
                others.setdefault(label, {}).setdefault(rival, {}).update(shown)
    return line(
        "schedule",
        cases or {"no overlap of losses": Spread(median=0.0, low=0.0, high=0.0)},
        study=study.name,
        step_times={key: rounded(value) for key, value in asdict(times).items()},
        at_equal_loss=others,
        loss_minus_ours_at_equal_steps=at_equal_steps(runs),
        runs=table(runs, times),
    )


if __name__ == "__main__":
    main()
