"""A disk of its own for a run: an ext4 image on a loop device, which can be filled or made to hang.

Needs root. Filling and hanging are what the kernel does with any other disk: writes fail with
ENOSPC, or do not come back (FIFREEZE) until the disk answers again.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE_BYTES = 96 * 2**20
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
"""linux/fs.h"""
HANGS_SECONDS, ANSWERS_SECONDS = 0.4, 0.1
FILLER = "filler"


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[None]:
    """A fresh disk at this folder, for as long as it is needed; its files lie there afterwards."""
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    at.mkdir(parents=True, exist_ok=True)
    _run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", str(image))
    _run("mount", "-o", "loop,noatime", str(image), str(at))
    try:
        (at / "lost+found").rmdir()
        yield
    finally:
        copy = image.with_suffix(".files")
        shutil.copytree(at, copy, ignore=shutil.ignore_patterns("*.safetensors"))
        _run("umount", "--lazy", str(at))
        image.unlink()
        at.rmdir()
        copy.rename(at)


@contextmanager
def full(folder: Path) -> Iterator[str]:
    """No block of the disk is free."""
    filler = folder / FILLER
    with filler.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**16))
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**9))
    try:
        yield str(folder)
    finally:
        filler.unlink()


@contextmanager
def slow(folder: Path) -> Iterator[str]:
    """Writes hang most of the time."""
    stop = threading.Event()

    def hang() -> None:
        while not stop.is_set():
            with frozen(folder):
                stop.wait(HANGS_SECONDS)
            stop.wait(ANSWERS_SECONDS)

    thread = threading.Thread(target=hang, name="slow disk")
    thread.start()
    try:
        yield str(folder)
    finally:
        stop.set()
        thread.join()


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """No write comes back, as with a server of files that is away."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(descriptor, FITHAW, 0)
    finally:
        os.close(descriptor)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
