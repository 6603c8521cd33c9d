"""Checkpoints in an object storage that fsspec reaches: S3 and what speaks like it, and others.

An object appears when its upload is complete, whole or not at all; what a crash leaves of an upload
is in no listing, and a lifecycle rule of the bucket clears it away. Credentials, endpoint and
encryption come from the environment (AWS_..., FSSPEC_S3_...), never from a manifest.

Every call ends: a server that does not answer is given up after a few tries. Whatever a client
raises becomes an OSError, because that is what callers expect of a storage.
"""

import contextlib
import errno
import importlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from concertina_api.errors import InvalidJob, MissingPackage
from concertina_api.location import check_location, scheme

CONNECT_SECONDS = 5
ANSWER_SECONDS = 30
"""How long a server may be silent."""
TRIES = 3
"""Of each request, with pauses that grow."""
_BLOCK_BYTES = 16 * 2**20
"""Uploaded at a time; with the 10,000 parts of S3 a file may have 160 GB."""
_RANGE_BYTES = 8 * 2**20
"""Read by one request; larger ranges are read by several at once."""

_EXTRAS = {"s3fs": "s3", "fsspec": "s3"}


def open_url(url: str, *, answer_seconds: float = ANSWER_SECONDS) -> "ObjectStorage":
    """The storage at `url`; nothing is asked of it yet.

    `answer_seconds`: how long an S3 server may be silent before a request is tried again.
    Raises InvalidJob for a scheme that fsspec does not know, MissingPackage without its package.
    """
    try:
        check_location(url)
    except ValueError as error:
        raise InvalidJob(f"checkpoint.path: {error}") from error
    name = scheme(url) or ""
    try:
        fsspec: Any = importlib.import_module("fsspec")
        kind = fsspec.get_filesystem_class(name)
    except ImportError as error:
        _lacks(error, name)
    except ValueError as error:
        raise InvalidJob(f"checkpoint.path: {url}: fsspec knows no {name}://") from error
    settings: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if name in ("s3", "s3a"):
        settings["config_kwargs"] = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": answer_seconds,
            # The file system above it tries again; both together would take an hour.
            "retries": {"total_max_attempts": 1},
        }
        settings["cache_regions"] = False
    try:
        files = kind(**settings)
    except ImportError as error:
        _lacks(error, name)
    if hasattr(files, "retries"):
        files.retries = TRIES
    return ObjectStorage(files, url.rstrip("/"))


def _lacks(error: ImportError, name: str) -> None:
    package = (error.name or "").partition(".")[0] or {"s3": "s3fs", "s3a": "s3fs"}.get(name, name)
    purpose = f"checkpoint.path {name}://"
    if package in _EXTRAS or name in ("s3", "s3a"):
        raise MissingPackage(package, extra="s3", purpose=purpose) from error
    raise InvalidJob(f"{purpose} needs a package that is not installed: {error}") from error


class ObjectStorage:
    """A prefix in an object storage; see storage.Storage."""

    def __init__(self, files: Any, location: str) -> None:
        """`files`: a file system of fsspec."""
        self.location = location
        self._files = files
        self._root: str = files._strip_protocol(location)

    def within(self, folder: str) -> "ObjectStorage":
        """A folder in this one."""
        return ObjectStorage(self._files, f"{self.location}/{folder}")

    def names(self) -> list[str]:
        """Objects and folders here, sorted."""
        return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in self._entries())

    def size(self, name: str) -> int:
        """Bytes of an object."""
        with _told(self._path(name)):
            return int(self._info(name)["size"])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """A range of an object."""
        path = self._path(name)
        with _told(path):
            if stop is None or stop - start <= _RANGE_BYTES:
                return bytes(self._files.cat_file(path, start=start, end=stop))
            starts = list(range(start, stop, _RANGE_BYTES))
            ends = [min(begin + _RANGE_BYTES, stop) for begin in starts]
            parts = self._files.cat_ranges([path] * len(starts), starts, ends, on_error="raise")
            return b"".join(parts)

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Put an object, whole or not at all."""
        path = self._path(name)
        with _told(path):
            # Without autocommit: closing a file after a failure would make a torso of it.
            file = self._files.open(path, "wb", block_size=_BLOCK_BYTES, autocommit=False)
        try:
            for chunk in chunks:
                with _told(path):
                    file.write(chunk)
            with _told(path):
                file.close()
                file.commit()
        except BaseException:
            with contextlib.suppress(OSError), _told(path):
                file.discard()
            # Its finalizer would try to send the rest.
            file.closed = True
            raise

    def swap(self, name: str, content: bytes, *, seen: bytes | None, by: str) -> None:
        """Put an object that several may write."""
        del by
        path = self._path(name)
        with _told(path):
            try:
                tag = str(self._info(name).get("ETag") or "")
                found = self._files.cat_file(path)
            except FileNotFoundError:
                tag, found = "", None
            if found != seen:
                raise FileExistsError(f"{path} was changed by another worker")
            condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"} if found is None else {}
            self._put(path, content, condition=condition)

    def claim(self, name: str) -> None:
        """Put an object that nobody has put before."""
        self.swap(name, b"\n", seen=None, by="")

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(FileNotFoundError), _told(self._path(name)):
            self._files.rm_file(self._path(name))

    def clear(self, *, first: str) -> None:
        """Remove this folder, `first` before all others."""
        self.remove(first)
        with contextlib.suppress(FileNotFoundError), _told(self._root):
            self._files.invalidate_cache()
            self._files.rm(self._root, recursive=True)

    def idle_seconds(self) -> float:
        """Time since something was written here."""
        written = [_modified(entry) for entry in self._entries()]
        clock = ObjectStorage(self._files, self.location.rpartition("/")[0])
        clock.write(".clock", [b"\n"])
        with _told(clock._path(".clock")):
            now = _modified(clock._info(".clock"))
        clock.remove(".clock")
        times = [time for time in written if time is not None]
        if now is None or not times or len(times) < len(written):
            return 0.0
        return max(0.0, (now - max(times)).total_seconds())

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _info(self, name: str) -> dict[str, Any]:
        self._files.invalidate_cache()
        info: dict[str, Any] = self._files.info(self._path(name))
        return info

    def _entries(self) -> list[dict[str, Any]]:
        with _told(self._root):
            self._files.invalidate_cache()
            try:
                found: list[dict[str, Any]] = self._files.ls(self._root, detail=True)
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return []
        # A listing has the prefix itself where somebody made an object of its name.
        return [entry for entry in found if entry["name"].rstrip("/") != self._root]

    def _put(self, path: str, content: bytes, *, condition: dict[str, str]) -> None:
        """Put an object under a condition, where the storage knows conditions."""
        if not hasattr(self._files, "call_s3"):
            self._files.pipe_file(path, content)
            return
        try:
            self._files.pipe_file(path, content, **condition)
        except OSError as error:
            if _code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
                raise FileExistsError(f"{path} was changed by another worker") from error
            if _code(error) not in ("NotImplemented", "501"):
                raise
            self._files.pipe_file(path, content)


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """Turn what a client raises into an OSError that names the object."""
    try:
        yield
    except FileExistsError:
        raise
    except FileNotFoundError as error:
        if _code(error) == "NoSuchBucket":
            raise OSError(errno.ENXIO, "there is no such bucket", path) from error
        raise FileNotFoundError(errno.ENOENT, "no such object", path) from error
    except OSError as error:
        if error.filename is None and len(error.args) < 2:
            raise type(error)(f"{path}: {str(error) or type(error).__name__}") from error
        raise
    # Each file system of fsspec raises errors of its own.
    except Exception as error:
        raise OSError(errno.EIO, f"{path}: {type(error).__name__}: {error}") from error


def _code(error: BaseException) -> str | None:
    """The code in the answer of an S3 server that led to `error`."""
    answer = getattr(error.__cause__, "response", None) or {}
    code = answer.get("Error", {}).get("Code")
    return None if code is None else str(code)


def _modified(entry: dict[str, Any]) -> datetime | None:
    for key in ("LastModified", "last_modified", "updated", "mtime", "created"):
        if isinstance(entry.get(key), datetime):
            return entry[key]  # type: ignore[no-any-return]
    return None
