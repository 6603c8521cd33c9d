"""Keeps the job's status on disk, for people who look and for the next shell. Used by the shell.

The file is advisory: the shell plans from the status in memory, so a disk that is full costs
nothing but a newer file.
"""

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from concertina_api.v1alpha1 import JobStatus
from concertina_operator.local.files import replace_text

_NO_CLOCK: Final = {
    "gpu_counted_at": None,
    "gpu_seconds": 0.0,
    "training_gpu_seconds": 0.0,
    "idle_gpu_seconds": 0.0,
}


class StatusFile:
    """One status, written again only when it says something new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: JobStatus | None = None

    def read(self) -> JobStatus:
        """The status of the last shell; an empty one when there is none that is whole."""
        try:
            return JobStatus.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return JobStatus()

    def keep(self, status: JobStatus) -> None:
        """Replaces the file, unless nothing changed but the clock of the GPUs. Raises OSError."""
        news = status.model_copy(update=_NO_CLOCK)
        if news == self._kept:
            return
        replace_text(self._path, status.model_dump_json(by_alias=True, indent=1))
        self._kept = news
