"""Durable file operations. Called by folder_storage.py and by the exports."""

import os
from io import FileIO
from pathlib import Path


def write_all(file: FileIO, content: bytes | memoryview) -> None:
    """An unbuffered write may take a part only; a full disk shows as OSError at the next one."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


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
