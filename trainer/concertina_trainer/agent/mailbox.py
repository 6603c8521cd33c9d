"""Files between an agent and its workers, in one folder of the pod.

    membership.json      agent -> workers   the newest membership, as the agent received it
    notice.json          agent -> workers   the pod must end; by when
    worker-<local>.json  worker -> agent    what the worker is doing; other workers look for its end
    worker-<local>.samples  worker -> agent  which samples it works on (under_way.py)

Every .json file is replaced by rename, so a reader sees the old or the new one, never a part. A file
outlives the process that wrote it, needs no thread on either side, and costs a reader one stat
when nothing changed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, Field, ValidationError

from concertina_api.v1alpha1 import (
    BatchSizeRequest,
    Failure,
    Membership,
    PodPhase,
    Progress,
    Resize,
    SavedCheckpoint,
    SnapshotFacts,
)
from concertina_api.v1alpha1.base import (
    Count,
    Duration,
    Finite,
    Model,
    Name,
    Positive,
    Token,
)

Content = TypeVar("Content", bound=BaseModel)


class Notice(Model):
    """The pod was told to end."""

    deadline: Duration
    """By when, in seconds of time.monotonic(), which all processes of a machine share."""


class Measured(Model):
    """What the leader measured in its newest step, for the metrics: concertina_<field>."""

    learning_rate: Finite
    accumulation_micro_batches: Count
    gradient_norm: Duration | None = None
    gradient_variance: Finite | None = None
    noise_estimate_age_samples: Count | None = None
    rule_ratio: Duration | None = None
    rule_threshold: Duration | None = None
    global_batch_requested_samples: Count | None = None


class WorkerStatus(Model):
    """What a worker tells its agent; fields as in the report."""

    incarnation: Token
    local_rank: Annotated[int, Field(ge=0, le=64)]
    pid: Count
    rank: Annotated[int, Field(ge=-1)] = -1
    """Global rank in `round`, -1 before the first round."""
    phase: PodPhase = PodPhase.STARTING
    round: Count = 0
    suspects: tuple[Name, ...] = ()
    failure: Failure | None = None
    request: BatchSizeRequest | None = None
    progress: Progress | None = None
    acknowledged: Resize | None = None
    checkpoint: SavedCheckpoint | None = None
    finished: bool = False
    state_bytes: Count | None = None
    peak_bytes: Count | None = None
    samples_trained: Count = 0
    """Samples in steps that this process took as leader; counts for the metrics."""
    recomputed_micro_batches: Count = 0
    tokens_per_sample: Positive | None = None
    """None when the task does not tell it."""
    step_seconds: Duration | None = None
    measured: Measured | None = None
    checkpoint_blocking_seconds: Duration | None = None
    checkpoint_seconds: Duration | None = None
    """From the copy of the newest durable checkpoint until it was durable."""
    checkpoint_interval_seconds: Duration | None = None
    """Time between two checkpoints; None when it saves at its ends alone, or cannot save."""
    checkpoint_failures: Count = 0
    """Saves that came to nothing; counts for the metrics while this process leads."""
    safe_at: Duration | None = None
    """When the state was as in the newest durable checkpoint, in seconds of time.monotonic()."""
    snapshot: SnapshotFacts | None = None
    """The leader tells it; None when the job takes none at all."""
    snapshot_at: Duration | None = None
    """When the state was as in the newest snapshot that all hold, in seconds of time.monotonic()."""
    snapshots_taken: Count = 0
    """Snapshots that became complete, whoever led; counts for the metrics while this process leads."""
    snapshot_failures: Count = 0
    """Those that did not, though no resize broke them off."""
    recoveries: Annotated[
        dict[Annotated[str, Field(max_length=32)], Count], Field(max_length=8)
    ] = Field(default_factory=dict)
    """Rounds after a loss that this process committed as leader, by the source of their state."""
    steps_lost: Count = 0
    """Steps that had been done and were run again after those losses."""
    slow: Annotated[tuple[Name, ...], Field(max_length=8)] = ()
    """Pods whose workers the others wait for."""
    device: Token | None = None
    """UUID of the worker's GPU."""
    device_bytes: Count | None = None
    """Memory that the worker holds on it."""


class Inbox(Generic[Content]):
    """Reads one file; parses it again only when it was replaced."""

    def __init__(self, path: Path, content: type[Content]) -> None:
        self._path = path
        self._content = content
        self._stamp: tuple[int, ...] | None = None
        self._latest: Content | None = None

    def read(self) -> Content | None:
        """The newest valid content; the last good one when the file is absent or rubbish."""
        try:
            status = self._path.stat()
            # A file system may give two files in a row the same time, and the same number.
            stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
            if stamp != self._stamp:
                self._latest = self._content.model_validate_json(self._path.read_bytes())
                self._stamp = stamp
        except (FileNotFoundError, ValidationError):
            pass
        return self._latest


def put(path: Path, content: BaseModel) -> None:
    """Replace the file at `path` by `content`, atomically; a failure leaves what was there.

    Of each file there is one writer, so what one that was killed has left is the next one's.
    Raises OSError.
    """
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.write_text(content.model_dump_json(by_alias=True, exclude_none=True))
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def membership_inbox(mailbox: Path) -> Inbox[Membership]:
    """Where a worker finds the newest membership."""
    return Inbox(mailbox / "membership.json", Membership)


def notice_inbox(mailbox: Path) -> Inbox[Notice]:
    """Where a worker finds that its pod must end."""
    return Inbox(mailbox / "notice.json", Notice)


def worker_file(mailbox: Path, local_rank: int) -> Path:
    """Where a worker tells what it is doing."""
    return mailbox / f"worker-{local_rank}.json"


def worker_statuses(mailbox: Path) -> Iterator[WorkerStatus]:
    """What the workers of the pod have told last; some may have ended, or be of earlier ones."""
    for path in sorted(mailbox.glob("worker-*.json")):
        status = Inbox(path, WorkerStatus).read()
        if status is not None:
            yield status


def samples_file(mailbox: Path, local_rank: int) -> Path:
    """Where a worker notes which samples it works on."""
    return mailbox / f"worker-{local_rank}.samples"
