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

from concertina_api.errors import ConcertinaError, InvalidJob
from concertina_api.v1alpha1 import AdaptiveTrainingJob, Failure, FailureCause, PodPhase
from concertina_trainer.agent.settings import load_job
from concertina_trainer.data.loader import Loader
from concertina_trainer.data.micro_batches import recreated_batches, training_batches
from concertina_trainer.loading import check_model, load_task
from concertina_trainer.logs import WORKER_FORMAT, Logs, set_up_logs
from concertina_trainer.loop.context import WorkerContext, worker_context
from concertina_trainer.loop.session import Ending, Session
from concertina_trainer.loop.status import StatusBoard
from concertina_trainer.loop.warm_up import warm_up
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
        return EXCLUDED_EXIT_CODE if training.ending is Ending.EXCLUDED else 0
    except Exception as error:  # noqa: BLE001 - the outermost place: told to the agent, then exit
        return failed(board, error)


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


def failed(board: StatusBoard, error: Exception) -> int:
    """Tell the agent why, and choose the exit code."""
    log.error("the worker failed", exc_info=error)
    permanent = isinstance(error, ConcertinaError) and error.exit_code == 2
    cause = FailureCause.INVALID_JOB if isinstance(error, InvalidJob) else FailureCause.EXCEPTION
    message = str(error) if isinstance(error, ConcertinaError) else repr(error)
    status = board.status
    board.tell(
        phase=PodPhase.FAILED,
        failure=Failure(
            round=status.round,
            incarnation=status.incarnation,
            rank=status.rank,
            cause=cause,
            message=message[-512:],
            permanent=permanent,
        ),
    )
    return 2 if permanent else 1


if __name__ == "__main__":
    if not torch.cuda.is_available():
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of libraries must not turn a clean end into an abort.
    os._exit(code)
