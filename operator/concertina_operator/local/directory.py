"""The run's directory: its files, its lock, and whether a job may resume in it.

`open_directory` is called once by `concertina run`. A directory belongs to one job for ever: what
shapes the state in its checkpoints must not change, everything else may.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import AdaptiveTrainingJob
from concertina_operator.local.files import replace_text
from concertina_operator.manifest_file import dump_job, load_job

_FIXED: Final = (
    "metadata.name",
    "spec.model",
    "spec.config",
    "spec.seed",
    "spec.batch.micro_batch_size",
    "spec.training.average_decay",
)
"""What the state in a checkpoint depends on."""

_DYING_SECONDS = 15.0
"""How long the processes of a dead shell may take to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDirectory:
    """Where everything about one run lies; all paths are absolute."""

    path: Path
    lock: int
    """Descriptor of the held lock, to be shared with whoever must outlive the shell."""

    @property
    def job(self) -> Path:
        """The manifest that agents and workers read."""
        return self.path / "job.yaml"

    @property
    def membership(self) -> Path:
        """The membership that the shell publishes."""
        return self.path / "membership.json"

    @property
    def status(self) -> Path:
        """The job's status, as the plan last had it."""
        return self.path / "status.json"

    @property
    def record(self) -> Path:
        """One row a step, written by the leader's worker."""
        return self.path / "steps.jsonl"

    @property
    def summary(self) -> Path:
        """The run in a page of JSON."""
        return self.path / "summary.json"

    @property
    def plot(self) -> Path:
        """The run in a picture."""
        return self.path / "plot.png"

    @property
    def log(self) -> Path:
        """The lines that the shell printed, with their times."""
        return self.path / "run.log"

    def report(self, pod: str) -> Path:
        """Where this pod's agent reports."""
        return self.path / "reports" / f"{pod}.json"

    def pod(self, pod: str) -> Path:
        """Folder of the pod: its log and its mailbox."""
        return self.path / "pods" / pod


@contextmanager
def open_directory(path: Path, *, job: AdaptiveTrainingJob) -> Iterator[RunDirectory]:
    """The directory, made or found, locked and holding `job`.

    Raises InvalidJob when another run uses it or when it belongs to another job.
    """
    path = path.absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InvalidJob(f"cannot use run directory {path}: {error.strerror}") from error
    try:
        _take(lock, path)
        directory = RunDirectory(path=path, lock=lock)
        _check_owner(directory, job)
        (path / "reports").mkdir(exist_ok=True)
        (path / "pods").mkdir(exist_ok=True)
        replace_text(directory.job, dump_job(job))
        yield directory
    finally:
        os.close(lock)


def _take(lock: int, path: Path) -> None:
    """Takes the lock, which the kernel frees when its last holder has ended."""
    deadline = time.monotonic() + _DYING_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(lock, 20, 0).decode(errors="replace").strip()
            # The sweeper of a shell that was killed shares the lock until it has swept.
            dying = owner.isdecimal() and not Path(f"/proc/{owner}").exists()
            if dying and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise InvalidJob(
                f"run directory {path} is in use by process {owner or '?'};"
                " wait for it, or choose another one with --run-dir"
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return


def _check_owner(directory: RunDirectory, job: AdaptiveTrainingJob) -> None:
    if not directory.job.exists():
        return
    owner = load_job(directory.job)
    for field in _FIXED:
        before, now = _value(owner, field), _value(job, field)
        if before != now:
            raise InvalidJob(
                f"run directory {directory.path} belongs to another job:"
                f" {field} is {before!r} there and {now!r} in this manifest;"
                " choose another directory with --run-dir"
            )


def _value(job: AdaptiveTrainingJob, field: str) -> object:
    value: object = job
    for part in field.split("."):
        value = getattr(value, part)
    return value
