"""Plays a series of rounds in the pool of processes: sessions without agents or start-up.

`play(document, folder, script)` runs a job whose memberships are named beforehand: `script` maps
the step after which a membership is published to the pods of that membership, in rank order.
Each pod is a process of the pool; who is no longer named leaves.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from concertina_api.manifest import parse_job
from concertina_api.v1alpha1 import Member, Membership
from concertina_trainer.agent.mailbox import put
from concertina_trainer.loading import load_task
from concertina_trainer.loop.context import WorkerContext
from concertina_trainer.loop.session import Session
from tests import worlds

Script = Mapping[int, Sequence[int]]
Look = Callable[[Session], Any]


@dataclass(frozen=True)
class Played:
    """What a played run left."""

    folder: Path
    pids: list[int]
    resources: list[list[tuple[int, int, int]]]
    """By pod, after each round: descriptors, threads, resident bytes."""
    seen: list[list[Any]]
    """By pod, before each step: what `look` found."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "steps.jsonl").read_text().splitlines()]

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if "loss" in row and not row.get("discarded")]

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.steps]

    @property
    def samples(self) -> list[tuple[int, int]]:
        """(first sample, batch) of each step."""
        return [(r["samples"] - r["global_batch_size"], r["global_batch_size"]) for r in self.steps]

    @property
    def decisions(self) -> list[dict[str, Any]]:
        return [row["decision"] for row in self.rows if "decision" in row]


def play(
    document: Mapping[str, Any],
    folder: Path,
    script: Script,
    *,
    dumps: Path | None = None,
    look: Look | None = None,
) -> Played:
    """Run the job; `dumps` receives each rank's rows before and after every resize.

    `look`, a top-level function, is called in each worker before each step.
    """
    from torch.distributed import TCPStore

    folder.mkdir(parents=True, exist_ok=True)
    pods = sorted({pod for members in script.values() for pod in members})
    for pod in pods:
        (folder / f"pod-{pod}").mkdir(exist_ok=True)
        for stale in (folder / f"pod-{pod}").glob("*.json"):
            stale.unlink()
    stores = [
        TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in range(len(script))
    ]
    ports = [store.port for store in stores]
    results = worlds.run(
        _part, max(pods) + 1, dict(document), str(folder), dict(script), ports,
        str(dumps) if dumps else None, look, timeout_seconds=240,
    )  # fmt: skip
    pids, resources, seen = zip(*filter(None, results), strict=True)
    return Played(folder, list(pids), list(resources), list(seen))


def _part(
    document: Mapping[str, Any],
    folder: str,
    script: dict[int, Sequence[int]],
    ports: Sequence[int],
    dumps: str | None,
    look: Look | None,
) -> tuple[int, list[tuple[int, int, int]], list[Any]] | None:
    from concertina_trainer import worker
    from concertina_trainer.loop.status import StatusBoard

    pod = dist.get_rank()
    # The pool's group is not needed; who closed it now would break off others' connecting to it.
    dist.barrier()
    dist.destroy_process_group()
    if not any(pod in members for members in script.values()):
        return None
    context = _context(folder, pod)
    documents = _memberships(script, ports)
    pods = {name for members in script.values() for name in members}
    resources: list[tuple[int, int, int]] = []
    seen: list[Any] = []

    published: set[int] = set()

    def publish_due(step: int) -> None:
        for due in sorted(documents):
            if due <= step and due not in published:
                published.add(due)
                newest = documents[due]
                for name in pods:
                    put(Path(folder, f"pod-{name}", "membership.json"), newest)
                return

    def reached(point: str) -> None:
        if point == "begin":
            resources.append(_resources())
        if dumps is not None and point in ("greet", "commit"):
            _dump(Path(dumps), point, session)

    job = parse_job(document)
    task = load_task(job.spec)
    session = worker.open_session(job, task, context, board=StatusBoard(context), reached=reached)
    with session as training:
        if pod == script[0][0]:
            publish_due(0)
        for step in training:
            # The next membership is published while a step runs, as in life.
            if training.keeper.live.groups.rank == 0:
                for due, membership in documents.items():
                    if due <= training.progress.step and membership.round <= training.round:
                        published.add(due)
                publish_due(training.progress.step)
            if look is not None:
                seen.append(look(training))
            with step:
                for batch in step.micro_batches():
                    step.backward(task.loss(step.model, batch))
    return os.getpid(), resources, seen


def _context(folder: str, pod: int) -> WorkerContext:
    mailbox = Path(folder, f"pod-{pod}")
    return WorkerContext(
        pod=f"pod-{pod}", uid=f"pod-{pod}", incarnation="i0", local_rank=0,
        mailbox=mailbox, run_dir=Path(folder), device=torch.device("cpu"),
    )  # fmt: skip


def _memberships(script: dict[int, Sequence[int]], ports: Sequence[int]) -> dict[int, Membership]:
    documents: dict[int, Membership] = {}
    before: Sequence[int] = ()
    for number, (step, pods) in enumerate(sorted(script.items())):

        def member(pod: int, port: int = ports[number]) -> Member:
            return Member(
                pod=f"pod-{pod}", uid=f"pod-{pod}", incarnation="i0", host="127.0.0.1", port=port
            )

        documents[step] = Membership(
            round=number + 1,
            members=tuple(member(pod) for pod in pods),
            leaving=tuple(member(pod) for pod in before if pod not in pods),
        )
        before = pods
    return documents


def _resources() -> tuple[int, int, int]:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), resident


def _dump(folder: Path, point: str, session: Any) -> None:
    from safetensors.torch import save_file

    keeper = session.keeper
    if point == "greet":
        if not keeper.held:
            return
        holding = keeper.held[0]
    elif keeper.live is None:
        return
    else:
        holding = keeper.hold()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{keeper.number}-{point}-{holding.rank}-of-{holding.world_size}.safetensors"
    tensors = {key: value.contiguous().clone() for key, value in holding.tensors.items()}
    save_file(tensors, folder / name, metadata={"extra": json.dumps(holding.extra)})
