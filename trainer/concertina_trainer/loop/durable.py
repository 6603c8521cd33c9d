"""Waits until a state is durable, for a worker whose part ends with it. Called by loop/saving.py.

A worker waits no longer than its time, and only while the round of the save lasts: when somebody
is gone, the save may lack a part for ever.
"""

import time
from collections.abc import Callable

from concertina_api.errors import StorageUnavailable, TrainingFailed
from concertina_trainer.checkpoint.publish import PartsMissing, SaveDropped
from concertina_trainer.checkpoint.writer import Writer

POLL_SECONDS = 0.1
DROP_SECONDS = 2.0
"""For a save that was given up to come to its end, one way or the other."""


def never() -> bool:
    """All whose parts are wanted stay."""
    return False


def await_save(
    writer: Writer,
    begin: Callable[[], None],
    *,
    step: int,
    seconds: float,
    gives_up: Callable[[], bool],
    with_others: bool = False,
) -> bool:
    """Begin a save and wait until it has come to its end.

    False when `gives_up` says so first, or, `with_others`, when another worker keeps it from being
    durable: that one fails, or is excluded, and a newer round goes on without it. Raises
    TrainingFailed, StorageUnavailable when it could not be.
    """
    end = time.monotonic() + seconds
    if not _wait(writer, seconds / 2, gives_up=gives_up):
        # What is still being written is older than this: its place in the queue is wanted.
        writer.abandon()
    if gives_up():
        return False
    started = time.monotonic()
    begin()
    done = _wait(writer, end - time.monotonic(), gives_up=gives_up)
    is_over = gives_up() or (with_others and _is_up_to_others(writer, done=done))
    if is_over and not done:
        # So that nobody makes it durable, and is not told, after the others have gone on.
        writer.abandon()
        done = writer.wait(DROP_SECONDS)
    if (done and not writer.trouble) or writer.has_published_since(started):
        return True
    if is_over:
        return False
    told = f"the last checkpoint (step {step}) is not saved"
    if done:
        error = writer.last_error
        kind = StorageUnavailable if _is_nobodys_fault(writer, error) else TrainingFailed
        raise kind(f"{told}: {writer.last_failure}") from error
    if writer.waits_for_parts:
        raise TrainingFailed(f"{told}: no parts of others within {seconds:.0f} s")
    raise StorageUnavailable(f"{told}: not within {seconds:.0f} s")


def _wait(writer: Writer, seconds: float, *, gives_up: Callable[[], bool]) -> bool:
    """Whether nothing is pending any more before the time is over or `gives_up` says so."""
    end = time.monotonic() + seconds
    while not writer.wait(min(POLL_SECONDS, max(0.0, end - time.monotonic()))):
        if time.monotonic() >= end or gives_up():
            return False
    return True


def _is_up_to_others(writer: Writer, *, done: bool) -> bool:
    """Whether this worker has done its part, and another has not."""
    if not done:
        return writer.waits_for_leader
    return bool(writer.trouble) and _is_told_by_others(writer.last_error)


def _is_told_by_others(error: Exception | None) -> bool:
    """Whether a save came to nothing for a reason that others know, and this worker does not."""
    return isinstance(error, SaveDropped) and not isinstance(error, PartsMissing)


def _is_nobodys_fault(writer: Writer, error: Exception | None) -> bool:
    """Whether a save failed for a reason that the job did not bring.

    A storage that has taken saves before does not refuse one now because of the job. What a
    peer could not save is told by the peer; but where parts are missing that nobody failed to
    write, the pods may each have a storage of their own.
    """
    if isinstance(error, OSError):
        return writer.written_at is not None
    return _is_told_by_others(error)
