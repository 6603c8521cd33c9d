"""A resize on a real kubelet: from the request to the first step of the new round, by its phases.

    python tests/bench/resize_on_kubelet.py [--quick]

Ours: a job's leader asks for a larger batch, the operator creates pods, they start and warm up while
training goes on, the membership names them, and the running processes re-shard in place. What the
job loses is the pause. The rival is the way in which sharded jobs are resized without that: the
same job by the same operator saves a checkpoint, gives all pods back, and starts at the new size;
what it loses is the time from its last step to its next one. The two take turns.

`ratio` is the worst case: median over repeats of what the rival loses over our pause. Beside it the
phases of the whole way, in seconds, none of which but the last stops training:

    tell      the step that decided had ended -> its request is in the leader's report
    decide    -> the pods exist
    schedule  -> all of them are bound to the node
    start     -> all of them have reported (sandbox, interpreter, imports of the agent)
    warm      -> all of them are warm (imports of torch, model, a step of real shape)
    publish   -> the membership names them
    finish    -> the step in hand has ended on all workers
    pause     -> the first step of the new round begins

All times are of one clock: the node is this machine.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from concertina_operator.cluster import paths
from concertina_operator.cluster.environment import RUN_PATH
from tests.bench.figures import Spread, arguments, line, ranged, ratios, rounded
from tests.bench.models import SIZES
from tests.bench.tasks import sized
from tests.cluster.api import Api
from tests.cluster.cluster import Cluster
from tests.cluster.fixtures import node_of_its_own
from tests.e2e.kubelet.operators import Operator, install
from tests.e2e.kubelet.runs import KubeletRun, applied

RESIZES = ((1, 2), (2, 4))
STEPS_BETWEEN = 8
STEPS_AFTER = 2
ACCUMULATION = 2
PHASES = ("tell", "decide", "schedule", "start", "warm", "publish", "finish", "pause")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """One resize of ours: seconds of each phase."""

    phases: Mapping[str, float]
    parts: Mapping[str, float]
    """Seconds of the parts of the pause, as the leader acknowledged them."""

    @property
    def pause(self) -> float:
        return self.phases["pause"]


@dataclass
class Sightings:
    """When the API server first said what; wall-clock seconds."""

    requested: dict[int, float] = field(default_factory=dict)
    """By the global batch that was asked for."""
    created: dict[str, float] = field(default_factory=dict)
    bound: dict[str, float] = field(default_factory=dict)
    reported: dict[str, float] = field(default_factory=dict)
    warm: dict[str, float] = field(default_factory=dict)
    published: dict[int, float] = field(default_factory=dict)
    """By the number of members."""

    def by_pod(self) -> tuple[Mapping[str, float], ...]:
        """What happens to each pod, in order."""
        return self.created, self.bound, self.reported, self.warm

    def see_pod(self, pod: Mapping[str, Any], now: float) -> None:
        name = pod["metadata"]["name"]
        self.created.setdefault(name, now)
        if "nodeName" in pod["spec"]:
            self.bound.setdefault(name, now)

    def see_report(self, report: Mapping[str, Any], now: float) -> None:
        name, spec = report["metadata"]["name"], report["spec"]
        self.reported.setdefault(name, now)
        if spec.get("phase") == "Warm":
            self.warm.setdefault(name, now)
        if request := spec.get("request"):
            self.requested.setdefault(request["effective"], now)

    def see_membership(self, membership: Mapping[str, Any], now: float) -> None:
        self.published.setdefault(len(membership["spec"]["members"]), now)


@contextmanager
def watching(run: KubeletRun) -> Iterator[Sightings]:
    """Sightings of a job while it runs."""
    seen, namespace = Sightings(), run.namespace
    watches: Sequence[tuple[str, Callable[[Mapping[str, Any], float], None]]] = (
        (paths.pods(namespace), seen.see_pod),
        (paths.reports(namespace), seen.see_report),
        (paths.memberships(namespace), seen.see_membership),
    )
    apis = [run.cluster.admin() for _ in watches]

    def follow(api: Api, path: str, see: Callable[[Mapping[str, Any], float], None]) -> None:
        for event in api.watch(path):
            see(event["object"], time.time())

    threads = [
        threading.Thread(target=follow, args=(api, *watch))
        for api, watch in zip(apis, watches, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        for api in apis:
            api.end_watch()
        for thread in threads:
            thread.join()


def document(size: str, old: int, new: int) -> dict[str, Any]:
    """A job of `old` pods that after a few steps asks for the batch of `new` pods, without end."""
    made = sized(
        size,
        batch=ACCUMULATION * old,
        pods={"min": old, "max": new, "allowed": [old, new]},
        scaling={"scaleUpCooldownSeconds": 0},
        checkpoint={"path": f"{RUN_PATH}/checkpoints", "everySeconds": None},
    )
    stage = {"samples": STEPS_BETWEEN * ACCUMULATION * old, "batch": ACCUMULATION * new}
    made["spec"]["batch"] |= {
        "max": ACCUMULATION * new,
        "maxAccumulation": ACCUMULATION,
        "rule": {"name": "Ramp", "stages": [stage]},
    }
    return made


def live_resize(run: KubeletRun, old: int, new: int) -> Resize:
    """Lets the job grow by itself."""
    with watching(run) as seen:
        run.wait_steps(STEPS_AFTER, workers=new)
    steps = run.steps()
    first = next(row for row in steps if row["world_size"] == new)
    last = steps[steps.index(first) - 1]
    decided = next(row for row in steps if row["global_batch_size"] == ACCUMULATION * new)
    joiners = sorted(seen.created, key=seen.created.__getitem__)[old:]
    times = [
        # A larger batch runs from the second step after the decision on.
        steps[steps.index(decided) - 2]["time"],
        seen.requested[ACCUMULATION * new],
        *(max(sighted[pod] for pod in joiners) for sighted in seen.by_pod()),
        seen.published[new],
        last["time"],
        last["time"] + first["pause_seconds"],
    ]
    spans = zip(PHASES, pairwise(times), strict=True)
    phases = {name: after - before for name, (before, after) in spans}
    parts = run.wait(lambda: run.status()["lastResize"].get("phases"), "the phases of the pause")
    return Resize(phases=phases, parts=parts)


def restart(run: KubeletRun, old: int, new: int) -> float:
    """Resizes the job by suspending and resuming it; seconds from its last step to its next."""
    run.wait_steps(2 * STEPS_BETWEEN, workers=old)
    run.edit(suspend=True)
    run.wait(lambda: run.holds("Suspended") and not run.pods(), "suspended, without pods")
    last = run.steps()[-1]
    run.edit(suspend=False, pods={"max": new})
    run.wait_steps(STEPS_AFTER, workers=new)
    first = next(row for row in run.steps() if row["step"] == last["step"] + 1)
    assert first["world_size"] == new
    return float(first["time"] - first["seconds"] - last["time"])


def compare(
    cluster: Cluster, operator: Operator, size: str, repeats: int
) -> tuple[dict[str, Spread], dict[str, Any]]:
    """Ratios and facts by case."""
    ours: dict[tuple[int, int], list[Resize]] = {case: [] for case in RESIZES}
    rival: dict[tuple[int, int], list[float]] = {case: [] for case in RESIZES}
    for number in range(repeats):
        for old, new in RESIZES:
            for turn in range(2):
                is_ours = (number + turn) % 2 == 0
                made = document(size, old, new)
                if not is_ours:
                    made["spec"]["pods"]["max"] = old
                with (
                    tempfile.TemporaryDirectory() as folder,
                    applied(cluster, operator, Path(folder, "run"), made) as run,
                ):
                    if is_ours:
                        ours[old, new].append(live_resize(run, old, new))
                    else:
                        rival[old, new].append(restart(run, old, new))
            shown = {name: rounded(took) for name, took in ours[old, new][-1].phases.items()}
            print(
                f"{size} {old}->{new} ours {shown} rival {rounded(rival[old, new][-1])}", flush=True
            )
    spreads, facts = {}, {}
    for case, resizes in ours.items():
        name = "{}->{}".format(*case)
        spreads[name] = ranged(ratios(rival[case], [resize.pause for resize in resizes]))
        facts[name] = summary(resizes, rival[case])
    return spreads, facts


def summary(resizes: Sequence[Resize], lost: Sequence[float]) -> dict[str, Any]:
    """What was measured in one case: [median, low, high], and medians of the parts of the pause."""
    return {
        "seconds": {
            name: ranged([resize.phases[name] for resize in resizes]).to_json() for name in PHASES
        },
        "request_to_first_step": ranged(
            [sum(resize.phases.values()) for resize in resizes]
        ).to_json(),
        "parts_of_pause": {
            part: rounded(median(resize.parts[part] for resize in resizes))
            for part in resizes[0].parts
        },
        "rival_lost_seconds": ranged(lost).to_json(),
    }


def main() -> None:
    parser = arguments("a resize on a real kubelet, by phases, against a restart of the pods")
    parser.add_argument("--repeats", type=int, help="resizes of each kind and case")
    parser.add_argument("--size", choices=tuple(SIZES), help="of the model; default 25m")
    options = parser.parse_args()
    size = options.size or ("tiny" if options.quick else "25m")
    repeats = options.repeats or (1 if options.quick else 3)
    with node_of_its_own() as cluster, tempfile.TemporaryDirectory() as folder:
        operator = Operator(install(cluster, Path(folder)), Path(folder, "operator.log"))
        operator.start()
        try:
            spreads, facts = compare(cluster, operator, size, repeats)
        finally:
            operator.kill()
    print(line("resize_on_kubelet", spreads, size=size, repeats=repeats, facts=facts))


if __name__ == "__main__":
    main()
