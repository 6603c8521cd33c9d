"""A wall clock of our processes that can be set: libfaketime, which reads its offset from a file.

The machine's clock is never touched. Monotonic clocks stay as they are, as they do when somebody
sets the time of a machine. Python sleeps by the monotonic clock until a moment, which libfaketime
0.9.10 gets wrong then (https://github.com/wolfcw/libfaketime/issues/426): a library of one function
before it leaves that to the kernel.
"""

import random
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

FOLDER, LIBRARY = Path("/usr/lib"), "*/faketime/libfaketimeMT.so.1"
"""Of Debian's package libfaketime, which `make cluster` installs."""
SLEEP = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <errno.h>
int clock_nanosleep(clockid_t c, int flags, const struct timespec *t, struct timespec *left) {
    return syscall(SYS_clock_nanosleep, c, flags, t, left) ? errno : 0;
}
"""
OFFSET = "offset"
STEPS_SECONDS = (-86400, -3600, -60, -5, 5, 60, 3600, 86400)


class NoFakeClock(Exception):
    """libfaketime is not installed; the message says how it is."""


def made(folder: Path) -> None:
    """Make the files of a clock in this folder; it shows the true time. Raises NoFakeClock."""
    _library()
    folder.mkdir()
    (folder / "sleep.c").write_text(SLEEP)
    command = ["gcc", "-shared", "-fPIC", "-o", str(folder / "sleep.so"), str(folder / "sleep.c")]
    subprocess.run(command, check=True, capture_output=True)
    set_offset(folder, 0)


def variables(folder: Path) -> Mapping[str, str]:
    """Environment of processes that see the clock in this folder, which may be their own path."""
    return {
        "LD_PRELOAD": f"{folder / 'sleep.so'}:{_library()}",
        "FAKETIME_TIMESTAMP_FILE": str(folder / OFFSET),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def set_offset(folder: Path, seconds: int) -> None:
    """Let the clock in this folder show a time that is so far from the true one."""
    partial = folder / f".{OFFSET}"
    partial.write_text(f"{seconds:+d}\n")
    partial.rename(folder / OFFSET)


@contextmanager
def stepped(folder: Path, *, target: float) -> Iterator[str]:
    """The clock jumps, and jumps back."""
    seconds = random.Random(target).choice(STEPS_SECONDS)
    set_offset(folder, seconds)
    try:
        yield f"{seconds:+d} s"
    finally:
        set_offset(folder, 0)


def _library() -> Path:
    found = sorted(FOLDER.glob(LIBRARY))
    if not found:
        raise NoFakeClock(f"no {FOLDER / LIBRARY}: apt-get install libfaketime")
    return found[0]
