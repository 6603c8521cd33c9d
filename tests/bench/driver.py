"""One session per process of a pool, without agents: what a bench runs its measurements in.

A bench calls `tests.worlds.run` with a function that opens `training`; the processes it runs in
form round 1 of a job.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from concertina_api.manifest import parse_job
from concertina_api.v1alpha1 import Member, Membership
from concertina_trainer import worker
from concertina_trainer.agent.mailbox import put
from concertina_trainer.loading import load_task
from concertina_trainer.loop.context import WorkerContext
from concertina_trainer.loop.session import Session
from concertina_trainer.loop.status import StatusBoard
from concertina_trainer.loop.step import Step
from concertina_trainer.task import Task


@contextmanager
def training(
    document: Mapping[str, Any], folder: Path, *, port: int
) -> Iterator[tuple[Session, Task]]:
    """This rank's session of a job over all ranks of the present group, which is closed.

    `port` is that of a fresh store on this machine; `folder` receives the record.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    dist.destroy_process_group()
    names = [f"pod-{number}" for number in range(world_size)]
    members = tuple(
        Member(pod=name, uid=name, incarnation="i0", host="127.0.0.1", port=port) for name in names
    )
    mailbox = folder / names[rank]
    mailbox.mkdir(parents=True)
    put(mailbox / "membership.json", Membership(round=1, members=members))
    context = WorkerContext(
        pod=names[rank],
        uid=names[rank],
        incarnation="i0",
        local_rank=0,
        mailbox=mailbox,
        run_dir=folder,
        device=torch.device("cpu"),
    )
    job = parse_job(document)
    task = load_task(job.spec)
    with worker.open_session(job, task, context, board=StatusBoard(context)) as session:
        yield session, task


def run_step(steps: Iterator[Step], task: Task) -> bool:
    """One turn of the loop as a user writes it; False when training is over."""
    step = next(steps, None)
    if step is None:
        return False
    with step:
        for batch in step.micro_batches():
            step.backward(task.loss(step.model, batch))
    return True
