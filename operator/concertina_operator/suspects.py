"""Remembers at which samples workers failed, and says when one of them is to blame.

Called by failures.py. A worker that fails names the micro-batch that it worked on, or the very
sample when the data set raised. A micro-batch is the same whoever runs it, so samples are
recognised across restarts and world sizes. A program that cannot train any samples fails at the
same ones each time, too: before it has done a step, nothing speaks against those it failed at. Of
memory there is as little for the others. Pure: no I/O, no clock.
"""

from typing import Final

from concertina_api.v1alpha1 import Failure, FailureCause, SuspectSamples

POISONED_AFTER: Final = 3
"""Failures at the same samples that blame them."""
REMEMBERED: Final = 64
_MAY_BE_POISON: Final = frozenset(
    {FailureCause.EXCEPTION, FailureCause.SIGNAL, FailureCause.EXIT_CODE}
)


def suspected(
    before: tuple[SuspectSamples, ...], failure: Failure, *, step: int
) -> tuple[SuspectSamples, ...]:
    """The suspects after one more failure that counts; newest last.

    `step` is the newest step of the run; a worker that fails while it becomes warm is in no round.
    Ranges that overlap are the same suspect, of which only what they share is left: a micro-batch
    that failed twice and then the one sample in it that the data set names.
    """
    if failure.first_sample is None or not failure.num_samples:
        return before
    if failure.cause not in _MAY_BE_POISON or not failure.round or not step:
        return before
    new = SuspectSamples(first=failure.first_sample, num_samples=failure.num_samples)
    known = next((entry for entry in before if _shared(entry, new)), None)
    if known is None:
        return (*before, new)[-REMEMBERED:]
    shared = _shared(known, new)
    again = SuspectSamples(first=shared.start, num_samples=len(shared), count=known.count + 1)
    return (*(entry for entry in before if entry != known), again)


def poison(suspects: tuple[SuspectSamples, ...]) -> SuspectSamples | None:
    """The samples at which workers failed too often, if there are any."""
    guilty = (entry for entry in suspects if entry.count >= POISONED_AFTER)
    return next(guilty, None)


def named(suspect: SuspectSamples) -> str:
    """The samples for people."""
    if suspect.num_samples == 1:
        return f"sample {suspect.first}"
    return f"samples {suspect.first} to {suspect.first + suspect.num_samples - 1}"


def _shared(one: SuspectSamples, other: SuspectSamples) -> range:
    return range(
        max(one.first, other.first),
        min(one.first + one.num_samples, other.first + other.num_samples),
    )
