"""The runs that schedule.py compares: models, schedules, and the making and keeping of results."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.bench.figures import rounded
from tests.bench.tasks import document

MICRO_BATCH = 4
WARMUP_FRACTION = 0.08
EVALUATION_WINDOWS = 1024


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


def plans_of(study: Study, seeds: int) -> Iterator[Plan]:
    """All runs of a study."""
    for budget in study.budgets:
        for schedule in schedules(study, budget):
            for seed in range(seeds):
                yield Plan(study=study.name, schedule=schedule, budget=budget, seed=seed)


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
