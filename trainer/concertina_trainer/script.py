"""What a script calls that drives the training loop itself.

    with session("job.yaml", task) as training:
        for step in training:
            with step:
                for batch in step.micro_batches():
                    step.backward(task.loss(step.model, batch))

The script is a worker program: `python -m concertina_trainer.agent script.py` in a pod, or
`torchrun --rdzv-backend=concertina ... script.py` in restart mode.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from concertina_api.errors import TrainingFailed
from concertina_trainer.agent.parent import die_with_parent
from concertina_trainer.agent.settings import load_job
from concertina_trainer.logs import WORKER_FORMAT, set_up_logs
from concertina_trainer.loop.context import worker_context
from concertina_trainer.loop.ending import Ending
from concertina_trainer.loop.session import Session
from concertina_trainer.loop.status import StatusBoard
from concertina_trainer.task import Task
from concertina_trainer.worker import excluded, failed, introduce, open_session


@contextmanager
def session(job: str | Path, task: Task) -> Iterator[Session]:
    """This worker's part in the training of `task`, from warm-up to the end of the run.

    `job` is the manifest; under an agent it is the agent's own copy of it that counts, whatever
    `spec.model` names. An exception in the block is told to the agent and raised; SystemExit is
    raised with code 3 when a round went on without this worker, which must then start anew.
    TrainingFailed is raised when the block is left before the run has ended.
    """
    die_with_parent()
    logs = set_up_logs(os.environ, text=WORKER_FORMAT)
    logs.adopt("torch")
    context = worker_context()
    board = StatusBoard(context)
    try:
        manifest = load_job(Path(os.environ.get("CONCERTINA_JOB") or job))
        introduce(logs, context, board, manifest)
        with open_session(manifest, task, context, board=board) as training:
            try:
                yield training
            except SystemExit as end:
                if end.code or training.ending is not None:
                    raise
            if training.ending is None:
                raise TrainingFailed(
                    f"the loop was left at step {training.progress.step}, before the run has ended;"
                    " to end it early, return StopTraining from the task's on_step"
                )
    except Exception as error:
        failed(board, error, context=context)
        raise
    if training.ending is Ending.EXCLUDED:
        raise SystemExit(excluded(board))
