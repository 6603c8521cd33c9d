"""The worker program: `python -m concertina_trainer.worker`, started by an agent.

Reads its environment and the manifest, warms up, and drives the session until the run ends or
the worker leaves. Exit codes: 0 done or left, 1 failed, 2 the user must edit the job, 3 a round
went on without this worker.
"""

from concertina_trainer.agent.parent import die_with_parent

if __name__ == "__main__":
    die_with_parent()

import faulthandler
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import AdaptiveTrainingJob, Failure, FailureCause, PodPhase
from concertina_trainer.agent.mailbox import samples_file
from concertina_trainer.agent.settings import load_job
from concertina_trainer.agent.under_way import UnderWay, samples_under_way
from concertina_trainer.causes import LONGEST_MESSAGE, account_of, out_of_memory
from concertina_trainer.data.loader import Loader
from concertina_trainer.data.micro_batches import recreated_batches, training_batches
from concertina_trainer.loading import check_model, load_task
from concertina_trainer.logs import WORKER_FORMAT, Logs, set_up_logs
from concertina_trainer.loop.context import WorkerContext, worker_context
from concertina_trainer.loop.devices import memory
from concertina_trainer.loop.ending import Ending
from concertina_trainer.loop.session import Session
from concertina_trainer.loop.status import StatusBoard
from concertina_trainer.loop.warm_up import warm_up
from concertina_trainer.pod_memory import PodMemory
from concertina_trainer.rounds.phases import ignore
from concertina_trainer.task import Task

log = logging.getLogger(__name__)

EXCLUDED_EXIT_CODE = 3


def main() -> int:
    """Run this worker; returns its exit code."""
    logs = set_up_logs(os.environ, text=WORKER_FORMAT)
    logs.adopt("torch")
    faulthandler.enable()
    context = worker_context()
    board = StatusBoard(context)
    try:
        job = load_job(Path(os.environ["CONCERTINA_JOB"]))
        introduce(logs, context, board, job)
        task = load_task(job.spec)
        with open_session(job, task, context, board=board) as training:
            for step in training:
                with step:
                    for batch in step.micro_batches():
                        step.backward(task.loss(step.model, batch))
        return excluded(board) if training.ending is Ending.EXCLUDED else 0
    except Exception as error:  # noqa: BLE001 - the outermost place: told to the agent, then exit
        return failed(board, error, context=context)


def introduce(
    logs: Logs, context: WorkerContext, board: StatusBoard, job: AdaptiveTrainingJob
) -> None:
    """Say in every line of the log whose it is."""
    logs.know(
        namespace=job.metadata.namespace,
        job=job.metadata.name,
        pod=context.pod,
        round=lambda: board.status.round,
        rank=lambda: board.status.rank if board.status.rank >= 0 else None,
    )


def open_session(
    job: AdaptiveTrainingJob,
    task: Task,
    context: WorkerContext,
    *,
    board: StatusBoard,
    reached: Callable[[str], None] = ignore,
) -> Session:
    """A session that is ready to be named in a round: data is loading, the worker is warm.

    Raises InvalidJob for what the user must change.
    """
    spec = job.spec
    check_model(task)
    batches = training_batches(spec, task)
    if spec.samples is not None:
        total_samples = spec.samples
    else:
        assert spec.epochs is not None
        total_samples = round(spec.epochs * len(batches.dataset))
    loader = Loader(
        batches,
        num_processes=spec.training.loader_processes,
        recreate=partial(recreated_batches, spec),
        under_way=UnderWay(samples_file(context.mailbox, context.local_rank)),
    )
    warm_up(spec, task, loader=loader, device=context.device)
    loader.warm_up()
    return Session(
        spec,
        task,
        context,
        job=job.metadata.name,
        total_samples=total_samples,
        loader=loader,
        board=board,
        reached=reached,
    )


def excluded(board: StatusBoard) -> int:
    """Tell the agent that nobody's code is to blame; returns the exit code."""
    status = board.status
    failure = Failure(
        round=status.round,
        incarnation=status.incarnation,
        rank=status.rank,
        cause=FailureCause.INFRASTRUCTURE,
        message="a round went on without this worker",
    )
    board.tell(failure=failure)
    return EXCLUDED_EXIT_CODE


def failed(board: StatusBoard, error: Exception, *, context: WorkerContext) -> int:
    """Tell the agent why, and choose the exit code."""
    log.error("the worker failed", exc_info=error)
    account, status = account_of(error), board.status
    permanent = account.cause is FailureCause.INVALID_JOB
    message = account.message
    if account.cause is FailureCause.OUT_OF_MEMORY:
        message = f"{_memory_in_words(message, context.device)}: {message}"
    samples = account.samples
    if samples is None and not permanent:
        samples = samples_under_way(samples_file(context.mailbox, context.local_rank))
    board.tell(
        phase=PodPhase.FAILED,
        failure=Failure(
            round=status.round,
            incarnation=status.incarnation,
            rank=status.rank,
            cause=account.cause,
            message=message[:LONGEST_MESSAGE],
            permanent=permanent,
            traceback="" if permanent else account.traceback,
            first_sample=samples.start if samples else None,
            num_samples=len(samples or ()),
        ),
    )
    return InvalidJob.exit_code if permanent else 1


def _memory_in_words(detail: str, device: torch.device) -> str:
    """The sizes of the memory that was refused: the device's when it was, else the host's."""
    if (
        device.type == "cuda"
        and "cpuallocator" not in detail.lower()
        and "MemoryError" not in detail
    ):
        held = memory(device).peak_bytes
        limit, where = torch.cuda.get_device_properties(device).total_memory, "the GPU"
    else:
        held = memory(torch.device("cpu")).peak_bytes
        limit, where = PodMemory.of_this_process().limit_bytes(), "the pod"
    return out_of_memory(detail, held_bytes=held, limit_bytes=limit, where=where)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of libraries must not turn a clean end into an abort.
    os._exit(code)
