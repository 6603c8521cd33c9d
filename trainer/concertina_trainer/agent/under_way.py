"""Which samples a worker is working on, written so that its agent reads it whatever happens.

The worker writes 16 bytes into a mapped file for each micro-batch; the agent reads them when the
worker has ended, also by a signal that left no time to tell anything.
"""

import mmap
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from concertina_api.v1alpha1.base import MAX_INT

_FORM: Final = struct.Struct("<QQ")
"""First sample and number of samples; no samples: nothing is under way."""


class UnderWay:
    """The writing end; a worker has one."""

    def __init__(self, path: Path) -> None:
        """Make the file anew. Raises OSError."""
        path.unlink(missing_ok=True)  # who reads an old one keeps it
        path.write_bytes(bytes(_FORM.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FORM.size)

    def begin(self, samples: range) -> None:
        """These samples are worked on from now on."""
        _FORM.pack_into(self._map, 0, samples.start, len(samples))

    def end(self) -> None:
        """No samples are worked on."""
        _FORM.pack_into(self._map, 0, 0, 0)

    def samples(self) -> range | None:
        """The samples that are worked on."""
        return _read(self._map[:])

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def samples_under_way(path: Path) -> range | None:
    """What the worker that wrote `path` was working on; None when it cannot be read."""
    try:
        return _read(path.read_bytes())
    except OSError:
        return None


def _read(data: bytes) -> range | None:
    if len(data) != _FORM.size:
        return None
    first, number = _FORM.unpack(data)
    is_sound = number > 0 and first + number <= MAX_INT
    return range(first, first + number) if is_sound else None
