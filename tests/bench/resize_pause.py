"""Pause of a live resize against a restart by torchrun from a distributed checkpoint.

    python tests/bench/resize_pause.py [--quick]

Ours: worker processes of a real run that goes 1, 2, 4, 2, 1 by published memberships; the pause is
the record's own (`pause_seconds`: end of the last step to start of the next). The rival: a fresh
`torchrun` at the new size with static rendezvous, from the start of its process to ready for the
first step, rival_restart.py; the steps it would have lost since its checkpoint are not charged, and
its save is shown apart. The two take turns, and each repeat begins with the other one.

`ratio` is the worst of all cases: median over repeats of rival / ours, with its range. Beside it:
phases of the pause, first step after it, and peak memory in a resize over its bound, which is the
state before, the state after, and (on a GPU only) rows in staging.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from concertina_api.v1alpha1 import Intent, PodPhase
from tests.bench.figures import Spread, arguments, line, ranged, ratios, rounded
from tests.bench.tasks import sized
from tests.fleet import Fleet, Pod
from tests.ports import free_port
from tests.worlds import spawn

RESIZES = ((1, 2), (2, 4), (4, 2), (2, 1))
STEPS_BETWEEN = 3
NUM_MICRO_BATCHES = 4
RIVAL = Path(__file__).with_name("rival_restart.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """One live resize."""

    seconds: float
    phases: Mapping[str, float]
    first_step_seconds: float
    steady_step_seconds: float
    memory_over_bound: float
    """Largest over the workers: (state before + what the resize took at its peak) / bound."""


class MeasuredFleet(Fleet):
    """Workers that note their memory at the points of a round."""

    def start(self, *names: str, kill_at: tuple[int, str] | None = None) -> None:
        from torch.distributed import TCPStore

        assert kill_at is None
        for name in names:
            mailbox = self.folder / "pods" / name
            mailbox.mkdir(parents=True)
            process = spawn(work, self.document, name, str(mailbox), str(self.folder))
            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            self.pods[name] = Pod(name=name, mailbox=mailbox, process=process, store=store)
        self.wait_phase(names, PodPhase.WARM)

    def memory_over_bound(self, round_: int, names: Sequence[str]) -> float:
        """See Pause."""
        return max(
            mark["share"]
            for name in names
            for mark in map(
                json.loads, (self.pods[name].mailbox / "memory").read_text().splitlines()
            )
            if mark["round"] == round_
        )


def work(document: Mapping[str, Any], name: str, mailbox: str, run_dir: str) -> None:
    """Body of a worker process."""
    import logging

    import torch

    from concertina_api.manifest import parse_job
    from concertina_trainer import worker
    from concertina_trainer.loading import load_task
    from concertina_trainer.loop.context import WorkerContext
    from concertina_trainer.loop.status import StatusBoard
    from tests.bench.driver import run_step

    log = os.open(Path(mailbox, "worker.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level="INFO", force=True)
    context = WorkerContext(
        pod=name, uid=name, incarnation="i0", local_rank=0,
        mailbox=Path(mailbox), run_dir=Path(run_dir), device=torch.device("cpu"),
    )  # fmt: skip
    job = parse_job(document)
    before: dict[str, int] = {}

    def reached(point: str) -> None:
        """Between the greetings and the first step: what the resize takes at its peak."""
        keeper = session.keeper
        if point == "greet":
            before["state"] = sum(map(state_bytes, keeper.held))
            before["resident"] = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        if point == "begin":
            bound = before["state"] + state_bytes(keeper.hold())
            taken = before["state"] + resident("VmHWM") - before["resident"]
            row = {"round": keeper.number, "share": taken / bound}
            with Path(mailbox, "memory").open("a") as file:
                file.write(json.dumps(row) + "\n")

    task = load_task(job.spec)
    with worker.open_session(
        job, task, context, board=StatusBoard(context), reached=reached
    ) as session:
        steps = iter(session)
        while run_step(steps, task):
            pass
    os._exit(0)


def state_bytes(holding: Any) -> int:
    """Memory of a worker's part of the state."""
    return sum(tensor.nbytes for tensor in holding.tensors.values())


def resident(what: str) -> int:
    """VmRSS, resident now, or VmHWM, its peak, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in lines if row.startswith(f"{what}:"))


def live_resizes(folder: Path, size: str) -> list[Pause]:
    """One run through all resizes."""
    names = ["a", "b", "c", "d"]
    with MeasuredFleet(folder, sized(size, batch=NUM_MICRO_BATCHES)) as fleet:
        fleet.start("a")
        fleet.publish(["a"])
        train(fleet)
        pauses = []
        for old, new in RESIZES:
            fleet.start(*[name for name in names[old:new] if name not in fleet.pods])
            train(fleet)
            leaving = names[new:old]
            newest = fleet.publish(names[:new], leaving=leaving)
            fleet.wait_round(newest.round, names[:new])
            fleet.wait_end(*leaving)
            train(fleet)
            pauses.append(pause_of(fleet, newest.round, names[:new]))
        fleet.publish([], leaving=["a"], intent=Intent.STOP)
        fleet.wait_end("a")
    return pauses


def train(fleet: Fleet) -> None:
    """Let a few steps pass in the present round."""
    number = fleet.membership.round

    def enough() -> bool:
        return sum(row["round"] == number for row in fleet.steps()) >= STEPS_BETWEEN

    fleet.wait(enough, f"{STEPS_BETWEEN} steps in round {number}")


def pause_of(fleet: MeasuredFleet, number: int, members: Sequence[str]) -> Pause:
    """The pause that led to a round, from the record and the leader's acknowledgement."""
    first, *others = [row for row in fleet.steps() if row["round"] == number]
    status = fleet.pods[members[0]].status
    assert status is not None
    assert status.acknowledged is not None
    assert status.acknowledged.round == number
    return Pause(
        seconds=first["pause_seconds"],
        phases=status.acknowledged.phases,
        first_step_seconds=first["seconds"],
        steady_step_seconds=median(row["seconds"] for row in others),
        memory_over_bound=fleet.memory_over_bound(number, members),
    )


def torchrun(world_size: int, what: str, folder: Path, size: str) -> dict[str, Any]:
    """A run of the rival from the start of its process; what rank 0 left."""
    out = folder / f"{what}.json"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--rdzv-backend=static",
        "--master-addr=127.0.0.1", f"--master-port={free_port()}",
        f"--nproc-per-node={world_size}",
        str(RIVAL), what, str(folder / f"checkpoint-{size}"), size, str(out),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RIVAL_STARTED": repr(time.time())}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def restarts(folder: Path, size: str) -> tuple[list[dict[str, float]], list[float]]:
    """The same resizes by restart, and the seconds of all saves."""
    results, saves = [], []
    for old, new in RESIZES:
        saves += torchrun(old, "save", folder, size)["save_seconds"]
        results.append(torchrun(new, "load", folder, size))
    return results, saves


def compare(size: str, repeats: int) -> tuple[dict[str, Spread], dict[str, Any]]:
    """Ratios and facts by case."""
    ours: list[list[Pause]] = []
    rival: list[list[dict[str, float]]] = []
    saves: list[float] = []
    for number in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for turn in range(2):
                if (number + turn) % 2 == 0:
                    ours.append(live_resizes(Path(folder, "run"), size))
                else:
                    results, seconds = restarts(Path(folder), size)
                    rival.append(results)
                    saves += seconds
        print(
            size, number,
            "ours", [rounded(pause.seconds) for pause in ours[-1]],
            "rival", [rounded(result["pause_seconds"]) for result in rival[-1]], flush=True,
        )  # fmt: skip
    spreads, facts = {}, {f"{size} save_seconds": ranged(saves).to_json()}
    for index, (old, new) in enumerate(RESIZES):
        pauses = [run[index] for run in ours]
        theirs = [run[index] for run in rival]
        name = f"{size} {old}->{new}"
        spreads[name] = ranged(
            ratios([r["pause_seconds"] for r in theirs], [p.seconds for p in pauses])
        )
        facts[name] = summary(pauses, theirs)
    return spreads, facts


def summary(pauses: Sequence[Pause], theirs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Medians of what was measured in one case."""
    return {
        "pause_seconds": ranged([pause.seconds for pause in pauses]).to_json(),
        "phases": {
            point: rounded(median(pause.phases[point] for pause in pauses))
            for point in pauses[0].phases
        },
        "first_step_seconds": rounded(median(p.first_step_seconds for p in pauses)),
        "steady_step_seconds": rounded(median(p.steady_step_seconds for p in pauses)),
        "memory_over_bound": rounded(max(pause.memory_over_bound for pause in pauses)),
        "rival": {key: rounded(median(r[key] for r in theirs)) for key in theirs[0]},
    }


def main() -> None:
    parser = arguments("pause of a live resize against a restart from a checkpoint")
    parser.add_argument("--repeats", type=int, help="runs through all resizes, for each model")
    parser.add_argument("--sizes", nargs="+", choices=("25m", "125m"), help="default: both")
    options = parser.parse_args()
    repeats = options.repeats or (1 if options.quick else 5)
    spreads, facts = {}, {}
    for size in options.sizes or (("25m",) if options.quick else ("25m", "125m")):
        some_spreads, some_facts = compare(size, repeats)
        spreads |= some_spreads
        facts |= some_facts
    print(line("resize_pause", spreads, repeats=repeats, facts=facts))


if __name__ == "__main__":
    main()
