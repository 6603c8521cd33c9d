"""A place for checkpoints: what writer, reader and retention ask of a folder or of a bucket.

`storage_at` opens one by its path or URL. Two kinds: folder_storage.py for file systems,
object_storage.py for everything that fsspec reaches. The protocol has no rename, which object
storages lack: an object appears under its name when it is whole, or not at all.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from concertina_api.location import scheme
from concertina_trainer.checkpoint.folder_storage import FolderStorage


class Storage(Protocol):
    """One folder of objects. Every method raises OSError when the storage fails."""

    location: str
    """Path or URL, for messages."""

    def within(self, folder: str) -> "Storage":
        """The folder of this name in this one; it need not exist."""

    def names(self) -> list[str]:
        """Objects and folders in this one, sorted; none when it does not exist."""

    def size(self, name: str) -> int:
        """Bytes of an object. Raises FileNotFoundError."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of an object, fewer where it ends. Raises FileNotFoundError."""

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Put an object, durably; a failure, of `chunks` too, leaves what was there."""

    def swap(self, name: str, content: bytes, *, seen: bytes | None, by: str) -> None:
        """Put `content` under a name that several may write, who read `seen` there before.

        None: nothing was there. Raises FileExistsError when it has changed since, as far as the
        storage can tell. `by` is a folder of the caller's own in this one: a file system puts the
        content there before it renames it.
        """

    def claim(self, name: str) -> None:
        """Put an object without content under a name that nobody has put one under.

        Raises FileExistsError when somebody has, as far as the storage can tell.
        """

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""

    def clear(self, *, first: str) -> None:
        """Remove this folder and all in it, the object `first` before all others.

        `first` is what makes the folder complete, so a crash in the middle leaves something that
        nobody takes for a checkpoint. What is gone already is no error.
        """

    def idle_seconds(self) -> float:
        """Time since something was written here, by the clock of the storage; 0 if unknown."""


Location = str | Path | Storage


def storage_at(location: Location) -> Storage:
    """The storage at a path or URL. A Storage is returned as it is.

    Raises InvalidJob for a scheme that nobody knows, MissingPackage for one whose package is not
    installed. Nothing is asked of the storage yet.
    """
    if isinstance(location, Path):
        return FolderStorage(location)
    if not isinstance(location, str):
        return location
    if scheme(location) is None:
        return FolderStorage(Path(location))
    from concertina_trainer.checkpoint.object_storage import open_url

    return open_url(location)
