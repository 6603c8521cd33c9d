"""The report: what one pod tells the operator. The operator treats it as untrusted.

Every field is bounded. Each pod writes warmth, store address, suspects, probe echo and failure;
the leader (rank 0) adds progress, the newest request and the acknowledged round.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from concertina_api.v1alpha1.base import (
    API_VERSION,
    PROTOCOL,
    BatchSize,
    Count,
    Duration,
    Finite,
    Host,
    Model,
    Name,
    Port,
    Text,
    Token,
)


class Protocols(Model):
    """Range of protocol versions that a pod speaks."""

    oldest: Annotated[int, Field(ge=1, le=1000)] = PROTOCOL
    newest: Annotated[int, Field(ge=1, le=1000)] = PROTOCOL


class BatchSizeRequest(Model):
    """The trainer's wish for workers: the batch that it runs now and why."""

    sequence: Count
    """Increases with every request."""
    requested: BatchSize
    """Batch that the rule wants, in samples."""
    effective: BatchSize
    """Batch that runs, after cap and grid, in samples."""
    reason: Text
    """One sentence with the numbers of the decision."""
    noise_scale: Finite | None = None
    """Gradient noise scale in samples, the evidence."""


class Progress(Model):
    """How far training is."""

    step: Count
    samples: Count
    loss: Finite | None = None
    global_batch_size: Count = 0
    world_size: Count = 0
    round: Count = 0
    noise_scale: Finite | None = None
    samples_per_second: Duration | None = None
    skipped_steps: Count = 0
    """Steps that changed no parameter, since the start: a loss or gradient not finite, or a spike."""
    rollbacks: Count = 0
    """Times that skipped steps led back to a snapshot, since the start."""
    useful_seconds: Duration = 0.0
    """Worker-seconds in the steps that led to this state; steps that were lost are not in it."""
    trained: bool = False
    """No step follows: all samples are consumed, or the task has said stop."""


class Resize(Model):
    """A committed round, told by its leader."""

    round: Count
    world_size_before: Count
    world_size: Count
    step: Count
    pause_seconds: Duration
    """End of the last step in the old round to the start of the first step in the new one."""
    phases: Annotated[
        dict[Annotated[str, Field(max_length=32)], Duration], Field(max_length=16)
    ] = Field(default_factory=dict)
    """Seconds of each phase of the pause, in order."""
    source: Annotated[str, Field(max_length=32)] = "memory"
    """Where state came from: memory, snapshot, checkpoint or seed."""
    lost: Count = 0
    """Workers of the round before that were lost with their shards."""
    steps_lost: Count = 0
    """Steps that had been done and are run again."""
    detection_seconds: Duration | None = None
    """From the last sign of the old round to the membership that names the loss; only after one."""


class FailureCause(StrEnum):
    """What ended a worker."""

    EXCEPTION = "Exception"
    OUT_OF_MEMORY = "OutOfMemory"
    """Of the host or of the device."""
    INFRASTRUCTURE = "Infrastructure"
    """Nothing that the job's author could mend: storage, network, a device, a kill from outside."""
    SIGNAL = "Signal"
    EXIT_CODE = "ExitCode"
    NON_FINITE = "NonFinite"
    INVALID_JOB = "InvalidJob"
    NOT_STARTED = "NotStarted"
    """The pod ended before it was in any round, and not by its own fault."""


class Failure(Model):
    """A worker of this pod ended when it should not have."""

    round: Count
    incarnation: Token
    rank: Annotated[int, Field(ge=-1, le=2**22)] = -1
    """Global rank of the worker, -1 when it had none yet."""
    cause: FailureCause
    message: Text = ""
    permanent: bool = False
    """True when trying again cannot help (the user must edit the job)."""
    traceback: Annotated[str, Field(max_length=1024)] = ""
    """The end of the worker's traceback."""
    first_sample: Count | None = None
    """First sample of the micro-batch, or the sample, that was being worked on."""
    num_samples: Count = 0
    """How many samples that was."""


class SavedCheckpoint(Model):
    """The newest durable checkpoint."""

    step: Count
    samples: Count
    path: Annotated[str, Field(max_length=1024)]


class SnapshotFacts(Model):
    """The newest snapshot that every worker of the round holds, or why there is none."""

    step: Count | None = None
    """Step after which it was taken; null before the first one is complete."""
    every_steps: Count = 0
    """Steps between two snapshots now; 0 while there are none."""
    seconds: Duration = 0.0
    """From its copy until every neighbour had it."""
    cost: Duration = 0.0
    """Share of the step time that snapshots take, measured."""
    num_bytes: Count = 0
    """Host memory that one worker keeps for snapshots."""
    off: Text = ""
    """Why none are taken; empty when they are."""
    fits: bool = True
    """There is memory for them, as far as anybody looked."""


class PodPhase(StrEnum):
    """What the pod's workers are doing."""

    STARTING = "Starting"
    WARM = "Warm"
    TRAINING = "Training"
    WAITING = "Waiting"
    """State is held, the round is broken: waiting for a newer one."""
    LEFT = "Left"
    """Shards are handed over, or the checkpoint is saved; the pod may go."""
    FINISHED = "Finished"
    FAILED = "Failed"


class Report(Model):
    """What one pod tells (spec of a TrainingReport)."""

    protocols: Protocols = Protocols()
    pod: Name
    uid: Token
    incarnation: Token
    """Incarnation of the workers that run now."""
    phase: PodPhase = PodPhase.STARTING
    host: Host = "127.0.0.1"
    port: Port | None = None
    """Where the agent serves a fresh store for the next round that it may lead."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    round: Count = 0
    """Round that the workers are in; 0 before the first."""
    leaving: bool = False
    """The pod was told to end (SIGTERM): name it in the next round's leaving."""
    suspects: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    """Pods that this pod's workers could not reach in `round`."""
    probe: Count = 0
    """Echo of the membership's probe."""
    failure: Failure | None = None
    request: BatchSizeRequest | None = None
    progress: Progress | None = None
    acknowledged: Resize | None = None
    """Newest round that this pod's leader has committed."""
    checkpoint: SavedCheckpoint | None = None
    snapshot: SnapshotFacts | None = None
    slow: Annotated[tuple[Name, ...], Field(max_length=8)] = ()
    """Pods whose workers the others wait for; the leader tells it."""
    finished: bool = False
    """The run has consumed all its samples, and its last state is saved where any can be."""
    state_bytes: Count | None = None
    """Bytes of parameters and optimizer state on one worker."""
    peak_bytes: Count | None = None
    """Largest memory of one worker so far."""
    time: AwareDatetime | None = None
    """When the pod wrote this, by its own clock; shown, never compared with another clock."""


class TrainingReport(Model):
    """The report as an object: what is stored in a file or in Kubernetes."""

    api_version: Literal["concertina.dev/v1alpha1"] = API_VERSION
    kind: Literal["TrainingReport"] = "TrainingReport"
    spec: Report
