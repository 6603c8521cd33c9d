import errno
import json
import signal
import socket

import pytest
import torch

from concertina_api.errors import (
    Diverged,
    InvalidJob,
    MissingPackage,
    RoundFailed,
    SampleFailed,
    TrainingFailed,
)
from concertina_api.v1alpha1 import FailureCause
from concertina_trainer.causes import (
    LONGEST_MESSAGE,
    LONGEST_TRACEBACK,
    Account,
    Elsewhere,
    account_of,
    cause_of_signal,
    out_of_memory,
    signal_name,
)

MEMORY, OUTSIDE = FailureCause.OUT_OF_MEMORY, FailureCause.INFRASTRUCTURE
USER = FailureCause.EXCEPTION
HOST_REFUSES = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."


def raised(error, *causes):
    """An exception as it is caught, each one raised from the next."""
    with pytest.raises(type(error)) as caught:
        raise error from (raised(*causes) if causes else None)
    return caught.value


@pytest.mark.parametrize(
    ("error", "want"),
    [
        (ValueError("shapes"), USER),
        (FileNotFoundError(errno.ENOENT, "no such file"), USER),
        (PermissionError(errno.EACCES, "denied"), USER),
        (OSError(errno.EMFILE, "too many open files"), USER),
        (BrokenPipeError(errno.EPIPE, "broken pipe"), USER),
        (RuntimeError("CUDA error: device-side assert triggered"), USER),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), USER),
        (ValueError("CUDA error: out of memory, says a user"), USER),
        (socket.gaierror(socket.EAI_NONAME, "name not known"), USER),
        (InvalidJob("microBatchSize"), FailureCause.INVALID_JOB),
        (MissingPackage("x", extra="x", purpose="x"), FailureCause.INVALID_JOB),
        (Diverged("6 steps"), FailureCause.NON_FINITE),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), MEMORY),
        (MemoryError(), MEMORY),
        (OSError(errno.ENOMEM, "cannot allocate memory"), MEMORY),
        (RuntimeError(HOST_REFUSES), MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), MEMORY),
        (OSError(errno.EIO, "input/output error"), OUTSIDE),
        (OSError(errno.ENOSPC, "no space left on device"), OUTSIDE),
        (OSError(errno.ESTALE, "stale file handle"), OUTSIDE),
        (ConnectionResetError(errno.ECONNRESET, "reset"), OUTSIDE),
        (TimeoutError("no answer"), OUTSIDE),
        (socket.gaierror(socket.EAI_AGAIN, "temporary failure"), OUTSIDE),
        (torch.distributed.DistBackendError("NCCL error in: x"), OUTSIDE),
        (RoundFailed("round 3"), OUTSIDE),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), OUTSIDE),
        (RuntimeError("No CUDA-capable device is detected"), OUTSIDE),
    ],
    ids=lambda value: f"{type(value).__name__} {value}" if isinstance(value, Exception) else None,
)
def test_an_exception_is_sorted_by_who_could_mend_it(error, want):
    assert account_of(raised(error)).cause is want


@pytest.mark.parametrize(
    ("chain", "want"),
    [
        ((SampleFailed("sample 3", first_sample=3), OSError(errno.EIO, "bad disk")), OUTSIDE),
        ((SampleFailed("sample 3", first_sample=3), KeyError("x")), USER),
        ((ValueError("mine"), RuntimeError("theirs"), MemoryError()), MEMORY),
        ((TrainingFailed("waited"), TimeoutError("600 s")), OUTSIDE),
        (
            (SampleFailed("x", first_sample=0), Elsewhere(Account(cause=MEMORY, message="x"))),
            MEMORY,
        ),
    ],
    ids=["storage", "user", "three deep", "timeout", "in another process"],
)
def test_what_an_exception_was_raised_from_decides(chain, want):
    assert account_of(raised(*chain)).cause is want


def mistaken_while_handling():
    try:
        raise OSError(errno.EIO, "bad disk")
    except OSError:
        raise KeyError("label")  # noqa: B904 - what is tested


def test_what_happened_to_be_handled_meanwhile_decides_nothing():
    with pytest.raises(KeyError) as caught:
        mistaken_while_handling()
    assert account_of(caught.value).cause is USER


def deep(levels):
    if levels:
        return deep(levels - 1)
    raise ValueError("at the bottom")


def test_the_traceback_ends_with_the_error_and_the_frames_nearest_to_it():
    with pytest.raises(ValueError, match="bottom") as caught:
        deep(100)
    account = account_of(caught.value)
    assert account.message == "ValueError: at the bottom"
    assert len(account.traceback) <= LONGEST_TRACEBACK
    assert account.traceback.endswith("ValueError: at the bottom")
    assert account.traceback.startswith('  File "')
    assert 'raise ValueError("at the bottom")' in account.traceback


def test_a_long_message_leaves_room_for_a_frame():
    account = account_of(raised(ValueError("x" * 5000)))
    assert len(account.message) == LONGEST_MESSAGE
    assert len(account.traceback) <= LONGEST_TRACEBACK
    assert ", in raised" in account.traceback


def test_what_another_process_told_is_kept():
    there = Account(cause=USER, message="KeyError: 1", traceback="frames of the other")
    error = raised(SampleFailed("sample 9", first_sample=9, num_samples=2), Elsewhere(there))
    account = account_of(error)
    assert (account.message, account.traceback) == ("sample 9", "frames of the other")
    assert account.samples == range(9, 11)


def test_text_that_no_encoding_carries_can_still_be_written():
    account = account_of(raised(ValueError("file \udc80")))
    assert json.dumps(account.message, ensure_ascii=False).encode()
    assert account.traceback.encode()


@pytest.mark.parametrize(
    ("number", "want", "want_name"),
    [
        (signal.SIGKILL, OUTSIDE, "SIGKILL"),
        (signal.SIGTERM, OUTSIDE, "SIGTERM"),
        (signal.SIGBUS, OUTSIDE, "SIGBUS"),
        (signal.SIGSEGV, FailureCause.SIGNAL, "SIGSEGV"),
        (signal.SIGABRT, FailureCause.SIGNAL, "SIGABRT"),
        (99, FailureCause.SIGNAL, "signal 99"),
    ],
)
def test_a_signal_came_from_outside_or_from_the_program_itself(number, want, want_name):
    assert cause_of_signal(number) is want
    assert signal_name(number) == want_name


@pytest.mark.parametrize(
    ("detail", "held", "limit", "want"),
    [
        (
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has",
            10 * 2**30,
            80 * 2**30,
            "out of memory: 20.00 GiB more were asked for, the worker held 10.0 GiB at its peak,"
            " the limit of it is 80.0 GiB",
        ),
        (
            HOST_REFUSES,
            None,
            2**30,
            "out of memory: 4096 bytes more were asked for, the limit of it is 1.0 GiB",
        ),
        (
            "Unable to allocate 728. TiB for an array with shape (1,)",
            2**20,
            None,
            "out of memory: 728. TiB more were asked for, the worker held 1 MiB at its peak",
        ),
        ("", None, None, "out of memory"),
    ],
    ids=["device", "host", "numpy", "nothing known"],
)
def test_running_out_of_memory_is_told_with_the_sizes(detail, held, limit, want):
    assert out_of_memory(detail, held_bytes=held, limit_bytes=limit, where="it") == want
