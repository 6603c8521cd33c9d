"""Durable file operations: after a crash at any moment a file is the old one or the new one.

Called by the checkpoint writer and by the exports. A rename is atomic on POSIX file systems and
on NFS; it is durable once the folder that holds the name is synchronised too.
"""

import contextlib
import os
import shutil
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Put `content` at `path`, durably; a failure leaves what was there. Raises OSError."""
    replace_from(path, content, temporary=temporary_name(path))


def replace_from(path: Path, content: bytes, *, temporary: Path) -> None:
    """As replace, for a `path` with several writers: `temporary` is this one's own name."""
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def temporary_name(path: Path) -> Path:
    """Where the content of `path` is written before its rename."""
    return path.with_name(f".{path.name}")


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(folder: Path, *, first: str) -> None:
    """Remove `folder` and all in it, the file `first` before all others.

    `first` is what makes the folder complete, so a crash in the middle leaves something that
    nobody takes for a checkpoint. What is gone already is no error. Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        (folder / first).unlink()
        sync_folder(folder)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
