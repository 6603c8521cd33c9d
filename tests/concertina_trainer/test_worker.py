import errno
import subprocess
import sys

import pytest
import torch

from concertina_api.errors import InvalidJob, SampleFailed
from concertina_api.v1alpha1 import FailureCause, PodPhase
from concertina_trainer.agent.mailbox import WorkerStatus, samples_file, worker_file
from concertina_trainer.agent.under_way import UnderWay
from concertina_trainer.loop.context import WorkerContext
from concertina_trainer.loop.status import StatusBoard
from concertina_trainer.worker import EXCLUDED_EXIT_CODE, excluded, failed


@pytest.fixture
def context(tmp_path):
    return WorkerContext(
        pod="tiny-0",
        uid="u",
        incarnation="a",
        local_rank=0,
        mailbox=tmp_path,
        run_dir=tmp_path,
        device=torch.device("cpu"),
    )


@pytest.fixture
def board(context):
    board = StatusBoard(context)
    board.tell(round=4, rank=3)
    return board


def told(context):
    """What the agent reads."""
    return WorkerStatus.model_validate_json(worker_file(context.mailbox, 0).read_bytes())


def test_an_exception_is_told_with_its_traceback_and_the_samples_that_were_worked_on(
    board, context
):
    with UnderWay(samples_file(context.mailbox, 0)) as mark:
        mark.begin(range(16, 24))
        code = failed(board, ValueError("shapes"), context=context)
    status = told(context)
    failure = status.failure
    assert (code, status.phase, failure.cause) == (1, PodPhase.FAILED, FailureCause.EXCEPTION)
    assert (failure.message, failure.permanent) == ("ValueError: shapes", False)
    assert (failure.round, failure.rank, failure.incarnation) == (4, 3, "a")
    assert failure.traceback.endswith("ValueError: shapes")
    assert (failure.first_sample, failure.num_samples) == (16, 8)


def test_the_sample_that_the_data_set_named_is_told_rather_than_the_micro_batch(board, context):
    with UnderWay(samples_file(context.mailbox, 0)) as mark:
        mark.begin(range(16, 24))
        failed(board, SampleFailed("sample 19", first_sample=19), context=context)
    failure = told(context).failure
    assert (failure.first_sample, failure.num_samples) == (19, 1)


def test_a_mistake_in_the_job_ends_with_2_and_blames_no_sample(board, context):
    with UnderWay(samples_file(context.mailbox, 0)) as mark:
        mark.begin(range(8))
        code = failed(board, InvalidJob("microBatchSize"), context=context)
    failure = told(context).failure
    assert (code, failure.cause) == (2, FailureCause.INVALID_JOB)
    assert (failure.permanent, failure.first_sample, failure.traceback) == (True, None, "")


def test_a_bad_disk_is_nobodys_fault(board, context):
    assert failed(board, OSError(errno.EIO, "input/output error"), context=context) == 1
    assert told(context).failure.cause is FailureCause.INFRASTRUCTURE


def test_a_round_that_went_on_without_the_worker_is_nobodys_fault(board, context):
    assert excluded(board) == EXCLUDED_EXIT_CODE
    status = told(context)
    assert status.phase is PodPhase.STARTING
    assert status.failure.cause is FailureCause.INFRASTRUCTURE


SMALL = """
import resource, sys
from pathlib import Path
import torch
from concertina_trainer.loop.context import WorkerContext
from concertina_trainer.loop.status import StatusBoard
from concertina_trainer.worker import failed

folder = Path(sys.argv[1])
context = WorkerContext(
    pod="tiny-0", uid="u", incarnation="a", local_rank=0, mailbox=folder, run_dir=folder,
    device=torch.device("cpu"),
)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**28, size + 2**28))
try:
    torch.ones(2**34)
except Exception as error:
    sys.exit(failed(StatusBoard(context), error, context=context))
"""


def test_an_allocation_that_is_refused_is_told_with_the_sizes(context):
    ended = subprocess.run(
        [sys.executable, "-c", SMALL, str(context.mailbox)], check=False, capture_output=True
    )
    assert ended.returncode == 1, ended.stderr
    failure = told(context).failure
    assert failure.cause is FailureCause.OUT_OF_MEMORY
    assert failure.message.startswith("out of memory: 68719476736 bytes more were asked for, ")
    assert "GiB at its peak, the limit of the pod is " in failure.message or (
        "MiB at its peak, the limit of the pod is " in failure.message
    )
