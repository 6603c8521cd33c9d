"""Replaces a file by rename, so that a reader sees the old or the new one, never a part."""

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Replaces the file at `path` by `text`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
