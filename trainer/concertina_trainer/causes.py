"""Sorts what ended a worker by who could mend it: RULES for exceptions, SIGNALS for kills.

Called by the worker that fails, by its loader processes, and by the agent for workers that could
tell nothing themselves. The operator counts the causes apart (concertina_operator/failures.py).
Pure: no torch, no I/O, no clock.
"""

import errno
import re
import signal
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from concertina_api.errors import ConcertinaError, SampleFailed
from concertina_api.v1alpha1 import FailureCause

LONGEST_MESSAGE: Final = 512
LONGEST_TRACEBACK: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Exceptions of one cause: those of a class, of an error number, or with words in the text."""

    cause: FailureCause
    why: str
    types: frozenset[str] = frozenset()
    """Classes by top package and name, subclasses included."""
    numbers: frozenset[int] = frozenset()
    """Values of OSError.errno."""
    words: tuple[str, ...] = ()
    """Parts of the message of a RuntimeError, in lower case; torch raises one for most things."""

    def applies(self, error: BaseException) -> bool:
        """Whether `error` itself, not what caused it, is of this kind."""
        names = {f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(error).mro()}
        if names & self.types:
            return True
        if isinstance(error, OSError) and error.errno in self.numbers:
            return True
        is_torch = bool(self.words) and isinstance(error, RuntimeError)
        return is_torch and any(word in str(error).lower() for word in self.words)


RULES: Final = (
    Rule(
        cause=FailureCause.INVALID_JOB,
        why="the manifest or the task is wrong; trying again cannot help",
        types=frozenset({"concertina_api.InvalidJob", "concertina_api.MissingPackage"}),
    ),
    Rule(
        cause=FailureCause.NON_FINITE,
        why="too many steps in a row had to be skipped",
        types=frozenset({"concertina_api.Diverged"}),
    ),
    Rule(
        cause=FailureCause.OUT_OF_MEMORY,
        why="an allocation was refused, on the device or on the host",
        types=frozenset({"torch.OutOfMemoryError", "builtins.MemoryError"}),
        numbers=frozenset({errno.ENOMEM}),
        words=(
            "defaultcpuallocator: can't allocate memory",
            "cuda error: out of memory",
            "cublas_status_alloc_failed",
            "cudnn_status_alloc_failed",
        ),
    ),
    Rule(
        cause=FailureCause.INFRASTRUCTURE,
        why="storage failed: a device error, a stale or vanished mount, a full or read-only volume."
        " No such file, no permission, too many open files are left to who wrote the code",
        types=frozenset({"concertina_api.StorageUnavailable"}),
        numbers=frozenset(
            {
                errno.EBUSY,  # an object storage that has too much to do
                errno.EIO,
                errno.EREMOTEIO,
                errno.ESTALE,
                errno.ENOTCONN,
                errno.ENODEV,
                errno.ENXIO,
                errno.ENOSPC,
                errno.EDQUOT,
                errno.EROFS,
            }
        ),
    ),
    Rule(
        cause=FailureCause.INFRASTRUCTURE,
        why="the network, or whoever should have answered, failed; a broken pipe is none of these,"
        " it is a process of the same machine",
        types=frozenset(
            {
                "builtins.ConnectionAbortedError",
                "builtins.ConnectionRefusedError",
                "builtins.ConnectionResetError",
                "builtins.TimeoutError",
                "requests.ConnectionError",
                "requests.Timeout",
                "urllib3.ProtocolError",
                "urllib3.TimeoutError",
                "aiohttp.ClientConnectionError",
                "botocore.ConnectionError",
                "botocore.HTTPClientError",
                "http.IncompleteRead",
            }
        ),
        numbers=frozenset(
            {
                errno.ENETDOWN,
                errno.ENETUNREACH,
                errno.ENETRESET,
                errno.EHOSTDOWN,
                errno.EHOSTUNREACH,
                -3,  # EAI_AGAIN, which socket.gaierror carries: no name server has answered
            }
        ),
    ),
    Rule(
        cause=FailureCause.INFRASTRUCTURE,
        why="a collective broke outside a round, where no newer round could mend it",
        types=frozenset({"torch.DistError", "concertina_api.RoundFailed"}),
        words=("nccl error", "connection closed by peer", "connection reset by peer"),
    ),
    Rule(
        cause=FailureCause.INFRASTRUCTURE,
        why="the device, not the program on it: memory and link errors, a device that is gone or"
        " not ready. Bad addresses and failed assertions in a kernel are left to who wrote it",
        words=(
            "uncorrectable ecc error",
            "uncorrectable nvlink error",
            "hardware stack error",
            "no cuda-capable device is detected",
            "cuda-capable device(s) is/are busy or unavailable",
            "system not yet initialized",
            "gpu is lost",
            "cuda error: unknown error",
        ),
    ),
)
"""The first that applies to an exception, or to what it was raised from, is its cause."""

SIGNALS: Final[Mapping[int, str]] = {
    signal.SIGKILL: "only others send it: a node, a runtime, a person",
    signal.SIGTERM: "an order to end that was not the agent's",
    signal.SIGINT: "the same, from a keyboard",
    signal.SIGHUP: "the same, from a terminal",
    signal.SIGQUIT: "the same, from a terminal",
    signal.SIGBUS: "a page of a mapped file or of memory could not be read",
}
"""Signals that come from outside the program, and why; all others are its own fault."""

_ASKED: Final = re.compile(
    r"(?:tried to allocate|unable to allocate) ([\d.]+) ?(bytes|[KMGTP]iB)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What is told of an exception."""

    cause: FailureCause
    message: str
    """At most LONGEST_MESSAGE characters."""
    traceback: str = ""
    """The last frames and the error, at most LONGEST_TRACEBACK characters."""
    samples: range | None = None
    """Samples that could not be made."""


class Elsewhere(Exception):
    """What another process of this worker raised, or how it ended, as it was told."""

    def __init__(self, account: Account) -> None:
        super().__init__(account.message)
        self.account = account
        if account.traceback:
            self.add_note(account.traceback)


def account_of(error: BaseException) -> Account:
    """The cause of an exception and what there is to say about it."""
    chain = tuple(_chain(error))
    origin = chain[-1]
    return Account(
        cause=next((found for link in chain if (found := _cause_of(link))), FailureCause.EXCEPTION),
        message=_shortened(_told(error), LONGEST_MESSAGE),
        traceback=origin.account.traceback if isinstance(origin, Elsewhere) else _ending_of(origin),
        samples=next(
            (
                range(link.first_sample, link.first_sample + link.num_samples)
                for link in chain
                if isinstance(link, SampleFailed)
            ),
            None,
        ),
    )


def cause_of_signal(number: int) -> FailureCause:
    """Whether a signal came from outside."""
    return FailureCause.INFRASTRUCTURE if number in SIGNALS else FailureCause.SIGNAL


def signal_name(number: int) -> str:
    """As people know it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def out_of_memory(
    detail: str, *, held_bytes: int | None, limit_bytes: int | None, where: str
) -> str:
    """One sentence with the sizes: what was asked for, what the worker held, what there is.

    `detail` is the allocator's own message; `where` names what has the limit, as in "the pod".
    """
    asked = _ASKED.search(detail)
    parts = [f"{asked[1]} {asked[2]} more were asked for" if asked else ""]
    parts += [f"the worker held {size(held_bytes)} at its peak" if held_bytes else ""]
    parts += [f"the limit of {where} is {size(limit_bytes)}" if limit_bytes else ""]
    told = ", ".join(part for part in parts if part)
    return f"out of memory: {told}" if told else "out of memory"


def size(num_bytes: int) -> str:
    """A size for people, in units of 1,024."""
    value = float(num_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it was raised from, in that order."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__


def _cause_of(error: BaseException) -> FailureCause | None:
    if isinstance(error, Elsewhere):
        return error.account.cause
    return next((rule.cause for rule in RULES if rule.applies(error)), None)


def _told(error: BaseException) -> str:
    if isinstance(error, ConcertinaError):
        return str(error)
    return "".join(traceback.TracebackException.from_exception(error).format_exception_only())


def _ending_of(error: BaseException) -> str:
    """The error and as many of the last frames as there is room for."""
    told = traceback.TracebackException.from_exception(error)
    error_line = _shortened("".join(told.format_exception_only()), LONGEST_TRACEBACK // 2)
    kept, room = [error_line], LONGEST_TRACEBACK - len(error_line)
    for frame in reversed(told.stack.format()):
        text = _clean(frame)
        room -= len(text)
        if room < 0:
            break
        kept.insert(0, text)
    return "".join(kept)


def _shortened(text: str, length: int) -> str:
    text = _clean(text).strip()
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _clean(text: str) -> str:
    """Text that every encoding can carry."""
    return text.encode(errors="replace").decode()
