"""Checkpoints in a folder of a file system: a local disk, a volume, NFS.

After a crash at any moment a file is the old one or the new one: its content is made durable under
another name first. A rename is atomic on POSIX file systems and on NFS; it is durable once the
folder that holds the name is synchronised too.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from concertina_trainer.checkpoint.files import sync_folder, temporary_name, write_all


class FolderStorage:
    """A folder; see storage.Storage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)

    def within(self, folder: str) -> "FolderStorage":
        """A folder in this one."""
        return FolderStorage(self.path / folder)

    def names(self) -> list[str]:
        """Objects and folders here, sorted."""
        try:
            return sorted(found.name for found in self.path.iterdir())
        except FileNotFoundError:
            return []

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return (self.path / name).stat().st_size

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """A range of an object."""
        # Not by a memory map: a file that is cut, or a storage that goes away, would end the
        # process where a read ends in an error.
        with (self.path / name).open("rb", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size if stop is None else stop
            file.seek(start)
            parts = []
            while start < end and (part := file.read(end - start)):
                parts.append(part)
                start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Put an object, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        _write_durably(self.path / name, chunks, temporary=temporary_name(self.path / name))

    def swap(self, name: str, content: bytes, *, seen: bytes | None, by: str) -> None:
        """Put an object that several may write."""
        # The folders that the new content may name count from here on.
        sync_folder(self.path)
        try:
            found = self.read(name)
        except FileNotFoundError:
            found = None
        if found != seen:
            raise FileExistsError(f"{self.path / name} was changed by another worker")
        # A crash before the rename leaves a file in a folder that is removed as a whole.
        _write_durably(self.path / name, [content], temporary=self.path / by / name)

    def claim(self, name: str) -> None:
        """Put an object that nobody has put before."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / name).touch(exist_ok=False)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def clear(self, *, first: str) -> None:
        """Remove this folder, `first` before all others."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / first).unlink()
            sync_folder(self.path)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path)

    def idle_seconds(self) -> float:
        """Time since something was written here."""
        probe = self.path.parent / ".clock"
        try:
            probe.touch()
            now = probe.stat().st_mtime
            probe.unlink()
            return max(0.0, now - self.path.stat().st_mtime)
        except OSError:
            # Without room for a file nothing is idle.
            return 0.0


def _write_durably(path: Path, chunks: Iterable[bytes | memoryview], *, temporary: Path) -> None:
    try:
        with temporary.open("wb", buffering=0) as file:
            for chunk in chunks:
                write_all(file, chunk)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)
