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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from concertina_api.batch import accumulation, workers_for
from tests import worlds
from tests.bench.figures import Spread, arguments, line, ranged, rounded
from tests.bench.tasks import document

MICRO_BATCH = 4
WORLD_SIZES = (1, 2, 4, 8)
MAX_ACCUMULATIONS = (2, 4)
WARMUP_FRACTION = 0.08
EVALUATION_WINDOWS = 1024
OURS, RIVAL = "NormTest .8", "constant 8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A model and what is tried on it."""

    name: str
    config: Mapping[str, int]
    peak: float
    budgets: tuple[int, ...]
    largest_batch: int = 128


STUDIES = {
    "small": Study(
        name="small",
        config={"width": 64, "layers": 2, "heads": 4, "context": 64},
        peak=4e-3,
        budgets=(8192, 12288, 20480),
    ),
    "full": Study(
        name="full",
        config={"width": 128, "layers": 4, "heads": 4, "context": 64},
        peak=3e-3,
        budgets=(12288, 16384, 24576),
    ),
}
STUDIES["quick"] = replace(STUDIES["small"], name="quick", budgets=(1024, 2048), largest_batch=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run to make."""

    study: str
    schedule: str
    budget: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run came to."""

    loss: float
    """Validation, nats per byte, at the end."""
    batches: list[tuple[int, int]]
    """(global batch, number of steps), in order."""

    @property
    def steps(self) -> int:
        return sum(count for _, count in self.batches)


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


def schedules(study: Study, budget: int) -> dict[str, dict[str, Any]]:
    """Changes of the spec, by name of the schedule."""
    largest = study.largest_batch

    def batch(initial: int, maximum: int, rule: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "microBatchSize": MICRO_BATCH, "initial": initial, "max": maximum, "rule": dict(rule)
        }  # fmt: skip

    found = {
        f"constant {b}": {"batch": batch(b, b, {"name": "Fixed"})} for b in (8, 16, 32, largest)
    }
    stages = [
        {"samples": round(share * budget), "batch": min(8 * 2**power, largest)}
        for power, share in enumerate((0.2, 0.4, 0.6, 0.8), start=1)
    ]
    found["ramp by hand"] = {"batch": batch(8, largest, {"name": "Ramp", "stages": stages})}
    for eta in (0.82, 0.8):
        name = f"NormTest {eta:g}".replace("0.", ".")
        found[name] = {"batch": batch(8, largest, {"name": "NormTest", "eta": eta})}
    for name, changes in found.items():
        # A constant batch gets the rate that suits it: the sweep of schedule-facts.
        factor = 4.0 if name == f"constant {largest}" else 1.0
        changes["learningRate"] = {
            "peak": factor * study.peak, "schedule": "Cosine", "batchLaw": "SquareRoot",
            "warmupSamples": round(WARMUP_FRACTION * budget),
        }  # fmt: skip
    return found


def manifest(plan: Plan) -> dict[str, Any]:
    """The job of a run."""
    study = STUDIES[plan.study]
    job = document(
        "concertina_trainer.examples.bytes_lm:BytesLM",
        {**study.config, "evaluation_windows": EVALUATION_WINDOWS},
        samples=plan.budget,
        micro_batch_size=MICRO_BATCH,
        batch=8,
        seed=plan.seed,
        pods={"min": 1, "max": 1},
    )
    job["spec"] |= schedules(study, plan.budget)[plan.schedule]
    return job


def train(plan: Plan) -> Run:
    """Body of a process that makes one run."""
    import torch
    import torch.distributed as dist
    from torch.distributed import HashStore, TCPStore

    from tests.bench.driver import run_step, training

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "run")
        with training(manifest(plan), record, port=store.port) as (session, task):
            steps = iter(session)
            while run_step(steps, task):
                pass
        rows = [json.loads(row) for row in (record / "steps.jsonl").read_text().splitlines()]
    batches: list[tuple[int, int]] = []
    for batch in (row["global_batch_size"] for row in rows if "loss" in row):
        count = batches.pop()[1] if batches and batches[-1][0] == batch else 0
        batches.append((batch, count + 1))
    losses = [row["evaluation"]["validation"] for row in rows if "evaluation" in row]
    return Run(loss=losses[-1], batches=batches)


def kept(folder: Path, plan: Plan) -> Path:
    """Where the result of a run is; another manifest is another place."""
    key = sha256(json.dumps(manifest(plan), sort_keys=True).encode()).hexdigest()[:12]
    name = f"{plan.study}-{plan.schedule}-{plan.budget}-{plan.seed}-{key}.json"
    return folder / name.replace(" ", "-")


def all_runs(plans: Sequence[Plan], folder: Path, *, jobs: int) -> dict[Plan, Run]:
    """Results of all runs; makes those that are not in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [plan for plan in plans if not kept(folder, plan).exists()]
    # The longest first, so that no processor waits for it at the end.
    missing.sort(key=lambda plan: -plan.budget)
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("forkserver"), max_tasks_per_child=1)
    with pool:
        for plan, run in zip(missing, pool.map(train, missing), strict=True):
            path = kept(folder, plan)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(asdict(run)))
            partial.replace(path)
            print(plan.schedule, plan.budget, plan.seed, rounded(run.loss), run.steps, flush=True)
    return {plan: read(kept(folder, plan)) for plan in plans}


def read(path: Path) -> Run:
    """A run that was kept."""
    found = json.loads(path.read_text())
    return Run(loss=found["loss"], batches=[(batch, count) for batch, count in found["batches"]])


# Step times


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


# What follows from the runs


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


def plans_of(study: Study, seeds: int) -> Iterator[Plan]:
    """All runs of a study."""
    for budget in study.budgets:
        for schedule in schedules(study, budget):
            for seed in range(seeds):
                yield Plan(study=study.name, schedule=schedule, budget=budget, seed=seed)


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
