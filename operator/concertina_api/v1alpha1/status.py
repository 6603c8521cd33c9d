"""The status of an AdaptiveTrainingJob: what the operator knows and intends.

Only what cannot be recomputed is stored (accepted request, time of the last resize, failures
counted); the rest is printed for people.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from concertina_api.v1alpha1.base import Count, Duration, Finite, Model, Text, Token


class ConditionType(StrEnum):
    """Types of the job's conditions; all are good when True, but NameTaken, Slow and Failed."""

    READY = "Ready"
    PODS_READY = "PodsReady"
    RESIZING = "Resizing"
    REQUEST_SATISFIED = "RequestSatisfied"
    TEMPLATE_VALID = "TemplateValid"
    COMPATIBLE = "Compatible"
    CHECKPOINT_DURABLE = "CheckpointDurable"
    SNAPSHOTS_TAKEN = "SnapshotsTaken"
    """The loss of a pod costs no checkpoint: its neighbour holds its part of the state."""
    SLOW = "Slow"
    """A pod keeps the others waiting."""
    NAME_TAKEN = "NameTaken"
    """An object of a needed name belongs to somebody else; it is never adopted."""
    SUSPENDED = "Suspended"
    COMPLETED = "Completed"
    FAILED = "Failed"


class Condition(Model):
    """A Kubernetes condition."""

    type: ConditionType
    status: Annotated[str, Field(pattern="^(True|False|Unknown)$")]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
    """One stable word, for programs."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """A sentence with the numbers, for people."""
    observed_generation: Count = 0
    last_transition_time: AwareDatetime | None = None
    """When status last changed."""


class PodCounts(Model):
    """Pods as numbers."""

    wanted: Count = 0
    """Pods that the job should have now."""
    ready: Count = 0
    """Pods that a round may name: their workers are warm."""
    running: Count = 0
    """Pods whose containers run."""
    outdated: Count = 0
    """Pods that were built from an older template than the job has now; they keep it."""
    granted: Count | None = None
    """Pods that a queue or quota allows now; null means no limit but max."""


class BatchStatus(Model):
    """The accepted request."""

    requested: Count = 0
    effective: Count = 0
    accumulation: Count = 0
    """Micro-batches that a worker runs in a step."""
    sequence: Count = 0
    reason: Text = ""


class ProgressStatus(Model):
    """How far training is."""

    step: Count = 0
    samples: Count = 0
    loss: Finite | None = None
    noise_scale: Finite | None = None
    """Gradient noise scale in samples."""
    samples_per_second: Duration | None = None
    finishes_at: AwareDatetime | None = None
    """Estimate, from the present throughput."""


class LastResize(Model):
    """The newest change of the membership."""

    from_world_size: Count
    to_world_size: Count
    reason: Text = ""
    pause_seconds: Duration | None = None
    phases: Annotated[
        dict[Annotated[str, Field(max_length=32)], Duration], Field(max_length=16)
    ] = Field(default_factory=dict)
    """Seconds of each phase of the pause."""
    at: AwareDatetime | None = None


class SnapshotStatus(Model):
    """The newest snapshot that every worker holds."""

    step: Count | None = None
    """Step after which it was taken; null before the first one is complete."""
    every_steps: Count = 0
    """Steps between two snapshots now; 0 while there are none."""
    seconds: Duration = 0.0
    """From its copy until every neighbour had it."""
    cost: Duration = 0.0
    """Share of the step time that snapshots take, measured."""


class RecoveryStatus(Model):
    """Losses of pods that training has survived."""

    count: Count = 0
    """Acknowledged rounds that began with a loss."""
    steps_lost: Count = 0
    """Steps that were done and had to be run again."""
    source: Annotated[str, Field(max_length=32)] = ""
    """Where the newest one took its state from: memory, snapshot, checkpoint or seed."""
    detection_seconds: Duration | None = None
    """Of the newest one: from the last sign of the old round to the membership that names the loss."""
    pause_seconds: Duration | None = None
    """Of the newest one: from the last step before to the first step after."""
    at: AwareDatetime | None = None


class Offences(Model):
    """Losses on one node, for which new pods avoid it."""

    node: Annotated[str, Field(max_length=253)]
    at: Annotated[tuple[AwareDatetime, ...], Field(max_length=100)] = ()
    """When, newest last."""
    uids: Annotated[tuple[Token, ...], Field(max_length=32)] = ()
    """The newest of these pods: each counts once."""


class SuspectSamples(Model):
    """Samples at which a worker failed."""

    first: Count
    num_samples: Count = 1
    count: Count = 1
    """How often; at three the job fails and names them."""


class Direction(StrEnum):
    """What a resize does to the number of workers."""

    GROW = "Grow"
    SHRINK = "Shrink"
    REPLACE = "Replace"
    """As many as before, but not the same ones."""


class ResizeCount(Model):
    """Resizes of one kind since the job was created."""

    direction: Direction
    reason: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
    """Why the round was published: the reason of the Resizing condition."""
    count: Count = 0


class FailureCount(Model):
    """Failures that count against backoffLimit: once per round, by pod."""

    count: Count = 0
    """Failures since the count last started anew."""
    total: Count = 0
    """Failures since the job was created."""
    rounds: Annotated[tuple[Count, ...], Field(max_length=1024)] = ()
    """Rounds whose failure was counted."""
    uids: Annotated[tuple[Token, ...], Field(max_length=65536)] = ()
    """Incarnations (uid.incarnation) whose failure was seen."""
    good_step: Count = 0
    """Step at which the count last started anew."""
    message: Text = ""
    traceback: Annotated[str, Field(max_length=1024)] = ""
    """The end of the traceback of the first failing rank, of the newest failure that counted."""
    samples: Annotated[tuple[SuspectSamples, ...], Field(max_length=64)] = ()
    """Where workers failed, newest last."""
    infrastructure: Count = 0
    """Failures since the job was created that nobody's code had caused; they do not count."""


class RetryStatus(Model):
    """Back-off of pod creation after pods that failed or were given back."""

    count: Count = 0
    """Attempts in a row that did not lead to the wanted number of members."""
    not_before: AwareDatetime | None = None
    """No pod is created earlier than this."""
    message: Text = ""
    """What failed in the newest attempt; empty when pods were given back."""


class JobStatus(Model):
    """Everything the operator writes about a job."""

    observed_generation: Count = 0
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    state: Annotated[str, Field(max_length=64)] = ""
    """Derived, for printing; nothing reads it back."""
    selector: Text = ""
    """Label selector of the job's pods, for the `scale` subresource."""
    pods: PodCounts = PodCounts()
    world_size: Count = 0
    """Workers of the newest round that is acknowledged."""
    round: Count = 0
    """Number of the newest round."""
    batch: BatchStatus = BatchStatus()
    progress: ProgressStatus = ProgressStatus()
    last_resize: LastResize | None = None
    snapshot: SnapshotStatus = SnapshotStatus()
    recoveries: RecoveryStatus = RecoveryStatus()
    offences: Annotated[tuple[Offences, ...], Field(max_length=64)] = ()
    """Nodes on which pods of this job were lost within the last hour."""
    resizes: Count = 0
    """Acknowledged rounds that changed the number of workers."""
    resize_counts: Annotated[tuple[ResizeCount, ...], Field(max_length=64)] = ()
    """Acknowledged rounds after the first by kind, those with as many workers as before too."""
    gpus: Count = 0
    """GPUs that pods hold since gpuCountedAt, one for each worker."""
    gpu_seconds: Duration = 0.0
    """Seconds that pods held GPUs: from their placing on a node to their trainer's end."""
    training_gpu_seconds: Duration = 0.0
    """The part of gpuSeconds held by members of a round that trained."""
    idle_gpu_seconds: Duration = 0.0
    """The part held by other pods, or while no round trained; what is in neither was not told apart."""
    useful_gpu_seconds: Duration = 0.0
    """The part of gpuSeconds in steps that counted: goodput is its share of them."""
    start_time: AwareDatetime | None = None
    """When an operator first planned the job."""
    completion_time: AwareDatetime | None = None
    """When the job completed or failed."""
    scaled_at: AwareDatetime | None = None
    """When the number of wanted pods last changed; cooldowns count from here."""
    below_min_since: AwareDatetime | None = None
    """Since when fewer pods than min are warm; null while there are enough."""
    failures: FailureCount = FailureCount()
    retry: RetryStatus = RetryStatus()
    committed_round: Count = 0
    """Newest round that its leader acknowledged."""
    round_at: AwareDatetime | None = None
    """When the newest round was published; its deadlines count from here."""
    probe_at: AwareDatetime | None = None
    """When the newest probe was published; null when none is open."""
    probe: Count = 0
    """Number of that probe; until the membership carries it, nobody was asked."""
    waiting_since: AwareDatetime | None = None
    """Since when no pod is in a round; null while the job trains."""
    active_seconds: Duration = 0.0
    """Seconds that the job was active up to its last suspension."""
    active_since: AwareDatetime | None = None
    """Since when the job is active without a break; null while suspended."""
    gpu_counted_at: AwareDatetime | None = None
    """Up to when gpuSeconds are counted."""
