"""How fast and at what cost the operator serves many jobs, against a client that only writes.

    python tests/bench/operator_scale.py [--quick] [--jobs N] [--repeats N]

1,000 jobs of 8 pods on KWOK. `ratio` is our pods per second over those of the bare client
(bare_client.py), which makes the writes that the operator made until the last pod was there, with
the same rights and the same bounds. Both take turns, each on a control plane of its own. Beside it,
of the operator: CPU and memory, calls for each job, a start with everything there, the time from a
report to the pod and to the round that it causes, and the writes of jobs that train.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from concertina_operator.cluster.facts import read_job
from concertina_operator.cluster.pod import build_pod
from tests.bench.bare_client import Writes, bare_api
from tests.bench.crews import Crews
from tests.bench.figures import Spread, arguments, line, ranged, ratios, rounded
from tests.bench.fleet import (
    JOBS,
    LOOK_SECONDS,
    NAMESPACE,
    Counters,
    Fleet,
    Usage,
    jobs,
    open_fleet,
    wait_until_it_has_seen,
    wait_until_it_leads,
)
from tests.cluster.build import build
from tests.cluster.tools import CONTROL_PLANE
from tests.concertina_operator.cluster.processes import OperatorProcess, operator_process

PODS_OF_A_JOB = 8
REPORTS_AT_ONCE = 4
"""What pods that start after one another come to; more would keep the API server from all else."""
EVENTS = f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured."""

    num_jobs: int
    num_growing: int
    """Jobs that ask for one more pod, one after the other."""
    steady_seconds: float
    """More than the time between two writes of a job's progress, unless it is only a trial."""
    flags: tuple[str, ...]
    """Of the operator."""

    @property
    def num_pods(self) -> int:
        return self.num_jobs * PODS_OF_A_JOB


def measure_ours(plan: Plan, figures: dict[str, list[float]], *, to_the_end: bool) -> Writes:
    """One turn of the operator; with a life of all jobs after it, if asked for."""
    with open_fleet(plan.num_pods + 2 * plan.num_growing) as fleet:
        with _operator(fleet, plan, "first") as operator:
            wait_until_it_leads(operator)
            before, used = Counters(operator), Usage.of(operator.process.pid)
            figures["ours"].append(_created(fleet, plan))
            now, created = Usage.of(operator.process.pid), Counters(operator)
            figures["cpu_created"].append(now.cpu_seconds - used.cpu_seconds)
            statuses = (created.calls("PATCH") - before.calls("PATCH")) / plan.num_jobs
            says = fleet.all_say(PODS_OF_A_JOB, "pods", "running", num_jobs=plan.num_jobs)
            asyncio.run(says)
            now, told = Usage.of(operator.process.pid), Counters(operator)
            figures["cpu_told"].append(now.cpu_seconds - used.cpu_seconds)
            figures["peak"].append(now.peak_mib)
            figures["calls"].append((told.calls() - before.calls()) / plan.num_jobs)
            figures["reconciles"].append(told.total("reconciles_total") / plan.num_jobs)
            writes = _writes(fleet, num_statuses=max(round(statuses), 1))
            _end(operator)
        _measure_start(fleet, plan, figures, "all_created")
        if to_the_end:
            with _operator(fleet, plan, "life") as operator:
                wait_until_it_has_seen(operator, plan.num_jobs)
                asyncio.run(_while_served(operator, _live(fleet, operator, plan, figures)))
                _end(operator)
            _measure_start(fleet, plan, figures, "all_training")
    return writes


def measure_bare(plan: Plan, figures: dict[str, list[float]], *, writes: Writes) -> None:
    """One turn of the bare client."""
    with open_fleet(plan.num_pods) as fleet:
        writes.store(fleet.folder / "writes")
        script = str(Path(__file__).with_name("bare_client.py"))
        command = [sys.executable, script, str(fleet.kubeconfig), str(fleet.folder / "writes")]
        process = subprocess.Popen(command)
        try:
            figures["bare"].append(_created(fleet, plan))
            figures["bare_cpu"].append(Usage.of(process.pid).cpu_seconds)
        finally:
            process.kill()
            process.wait()


def _created(fleet: Fleet, plan: Plan) -> float:
    pods = {"min": PODS_OF_A_JOB, "max": PODS_OF_A_JOB}
    documents = jobs(plan.num_jobs, prefix="job", pods=pods)
    return fleet.seconds_until_created(documents, num_pods=plan.num_pods)


def _writes(fleet: Fleet, *, num_statuses: int) -> Writes:
    """What the operator wrote for the first job."""
    document = fleet.api.get(f"{JOBS}/job-0000")
    name, uid = document["metadata"]["name"], document["metadata"]["uid"]
    spec = read_job(document).spec
    pods = [build_pod(document, spec, name=f"{name}-{number}") for number in range(PODS_OF_A_JOB)]
    events = [
        {**event, "metadata": {field: event["metadata"][field] for field in ("name", "namespace")}}
        for event in fleet.api.list(EVENTS)
        if event["regarding"].get("uid") == uid
    ]
    return Writes(
        name=name,
        uid=uid,
        pods=[json.dumps(pod) for pod in pods],
        status=json.dumps({"status": document["status"]}),
        num_statuses=num_statuses,
        events=[json.dumps(event) for event in events],
    )


def _measure_start(fleet: Fleet, plan: Plan, figures: dict[str, list[float]], name: str) -> None:
    """A start with everything there."""
    started = time.perf_counter()
    with _operator(fleet, plan, name) as operator:
        wait_until_it_has_seen(operator, plan.num_jobs)
        figures[f"{name}_wall"].append(time.perf_counter() - started)
        used = Usage.of(operator.process.pid)
        figures[f"{name}_cpu"].append(used.cpu_seconds)
        figures[f"{name}_peak"].append(used.peak_mib)
        # A lease is replaced by PUT.
        figures[f"{name}_writes"].append(Counters(operator).calls("POST", "PATCH", "DELETE"))
        _end(operator)


async def _while_served(operator: OperatorProcess, life: Coroutine[Any, Any, None]) -> None:
    """Does not wait for what an operator that has ended will never do."""
    living = asyncio.create_task(life)
    while not living.done():
        assert operator.process.poll() is None, operator.log.read_text()[-2000:]
        await asyncio.wait((living,), timeout=LOOK_SECONDS)
    await living


async def _live(
    fleet: Fleet, operator: OperatorProcess, plan: Plan, figures: dict[str, list[float]]
) -> None:
    """All jobs train; then they are steady; then others grow beside them."""
    async with bare_api(fleet.admin, calls_at_once=REPORTS_AT_ONCE) as api:
        crews = Crews(api, label="job")
        await crews.join()
        figures["round"] += crews.round_seconds
        await fleet.all_say(PODS_OF_A_JOB, "worldSize", num_jobs=plan.num_jobs)
        training = asyncio.create_task(crews.progress())
        before, used = Counters(operator), Usage.of(operator.process.pid)
        started = time.monotonic()
        await asyncio.sleep(plan.steady_seconds)
        now, seconds = Usage.of(operator.process.pid), time.monotonic() - started
        figures["steady_writes"].append((Counters(operator).writes() - before.writes()) / seconds)
        figures["steady_reports"].append(crews.num_reports / seconds)
        figures["steady_cores"].append((now.cpu_seconds - used.cpu_seconds) / seconds)
        growing = Crews(api, label="grow")
        documents = jobs(plan.num_growing, prefix="grow", pods={"min": 1, "max": 2})
        await asyncio.to_thread(fleet.post, documents)
        await asyncio.to_thread(fleet.wait_for_pods, plan.num_pods + plan.num_growing)
        await growing.join()
        figures["resize"] += await growing.grow(samples=64)
        training.cancel()
        with suppress(asyncio.CancelledError):
            await training


@contextmanager
def _operator(fleet: Fleet, plan: Plan, name: str) -> Iterator[OperatorProcess]:
    with operator_process(
        fleet.kubeconfig, NAMESPACE, fleet.folder / name, *plan.flags
    ) as operator:
        yield operator


def _end(operator: OperatorProcess) -> None:
    """In order, so that the next one need not wait for the lease to expire."""
    operator.process.terminate()
    operator.process.wait(timeout=60)


def _percentiles(values: list[float]) -> dict[str, float]:
    cuts = quantiles(values, n=100, method="inclusive")
    return {"p50": rounded(cuts[49]), "p99": rounded(cuts[98]), "num": len(values)}


def report(plan: Plan, figures: dict[str, list[float]]) -> str:
    """The line of JSON."""

    def shown(name: str) -> list[float]:
        return ranged(figures[name]).to_json()

    def rate(name: str) -> list[float]:
        return ranged([plan.num_pods / seconds for seconds in figures[name]]).to_json()

    cases: dict[str, Spread] = {
        f"{plan.num_jobs} jobs of {PODS_OF_A_JOB} pods": ranged(
            ratios(figures["bare"], figures["ours"])
        )
    }
    total = [
        sum(pair) for pair in zip(figures["steady_writes"], figures["steady_reports"], strict=True)
    ]
    return line(
        "operator_scale",
        cases,
        pods_per_second=rate("ours"),
        bare_pods_per_second=rate("bare"),
        cpu_seconds={"created": shown("cpu_created"), "told": shown("cpu_told")},
        bare_cpu_seconds=shown("bare_cpu"),
        peak_mib=shown("peak"),
        calls_per_job=shown("calls"),
        reconciles_per_job=shown("reconciles"),
        start={
            name: {part: shown(f"{name}_{part}") for part in ("wall", "cpu", "peak", "writes")}
            for name in ("all_created", "all_training")
        },
        report_to_pod_seconds=_percentiles(figures["resize"]),
        report_to_round_seconds=_percentiles(figures["round"]),
        steady={
            "seconds": plan.steady_seconds,
            "writes_per_second": ranged(total).to_json(),
            "of_the_operator": shown("steady_writes"),
            "cores": shown("steady_cores"),
        },
    )


def main() -> None:
    parser = arguments("how fast and at what cost the operator serves many jobs")
    parser.add_argument("--jobs", type=int, help="jobs of 8 pods")
    parser.add_argument("--repeats", type=int, help="turns of each side")
    parser.add_argument(
        "--pods-per-second", type=float, help="the operator's own limit, in place of its default"
    )
    options = parser.parse_args()
    limit = options.pods_per_second
    plan = Plan(
        num_jobs=options.jobs or (100 if options.quick else 1000),
        num_growing=10 if options.quick else 200,
        steady_seconds=10.0 if options.quick else 75.0,
        flags=() if limit is None else ("--pods-per-second", str(limit)),
    )
    repeats = options.repeats or (1 if options.quick else 2)
    build(CONTROL_PLANE)
    figures: defaultdict[str, list[float]] = defaultdict(list)
    writes: Writes | None = None
    for number in range(repeats):
        is_last = number == repeats - 1
        if number % 2 and writes is not None:
            measure_bare(plan, figures, writes=writes)
            measure_ours(plan, figures, to_the_end=is_last)
        else:
            writes = measure_ours(plan, figures, to_the_end=is_last)
            measure_bare(plan, figures, writes=writes)
    print(report(plan, figures))


if __name__ == "__main__":
    main()
