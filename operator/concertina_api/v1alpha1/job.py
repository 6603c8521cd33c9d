"""The spec of an AdaptiveTrainingJob: what a user writes.

`concertina run` and Kubernetes take the same manifest. Checks across fields are here; the same
rules become CEL in the custom resource definition.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from concertina_api.location import check_location
from concertina_api.v1alpha1.base import (
    API_VERSION,
    BatchSize,
    Count,
    JobName,
    Model,
    Positive,
    Seconds,
)
from concertina_api.v1alpha1.status import JobStatus

Factory = Annotated[
    str,
    Field(
        min_length=3,
        max_length=253,
        pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$",
    ),
]


class RuleName(StrEnum):
    """The batch-size rules."""

    NORM_TEST = "NormTest"
    NOISE_SCALE = "NoiseScale"
    RAMP = "Ramp"
    FIXED = "Fixed"


class RampStage(Model):
    """From this many samples on, run this batch."""

    samples: Count
    """Samples consumed at which the stage begins."""
    batch: BatchSize
    """Global batch of the stage, a multiple of microBatchSize."""


class Rule(Model):
    """A batch-size rule and its knobs; a knob that a rule does not have is refused."""

    name: RuleName = RuleName.NORM_TEST
    eta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """NormTest: grow when gradient variance / b exceeds eta^2 |g|^2.

    Default 0.8; 0.7 is faster, 0.9 more careful.
    """
    fraction: Annotated[float, Field(gt=0, le=1000)] | None = None
    """NoiseScale: wanted batch as a fraction of the gradient noise scale. Default 1/0.8^2 - 1 = 0.5625."""
    stages: Annotated[tuple[RampStage, ...], Field(max_length=64)] = ()
    """Ramp: the stages, by rising samples."""
    horizon_samples: Positive | None = None
    """Smoothing horizon in samples. Default: 6 % of the run, at least 500."""
    every_samples: Positive | None = None
    """Samples between two decisions. Default: two thirds of the horizon."""
    hold_samples: Count | None = None
    """No growth before this many samples. Default: the learning rate's warm-up."""
    max_growth: Annotated[float, Field(gt=1, le=64)] = 2.0
    """Largest factor by which one decision may grow the batch."""
    hysteresis: Annotated[float, Field(ge=1, le=16)] = 2.0**0.5
    """Grow only when the wanted batch is at least this factor above the present one."""

    @model_validator(mode="after")
    def _knobs_belong_to_the_rule(self) -> Self:
        owners = {
            "eta": RuleName.NORM_TEST,
            "fraction": RuleName.NOISE_SCALE,
            "stages": RuleName.RAMP,
        }
        for knob, owner in owners.items():
            if getattr(self, knob) and self.name is not owner:
                raise ValueError(f"{knob} belongs to rule {owner.value}, not to {self.name.value}")
        if self.name is RuleName.RAMP:
            starts = [stage.samples for stage in self.stages]
            if not starts:
                raise ValueError("rule Ramp needs at least one stage")
            if starts != sorted(set(starts)):
                raise ValueError(f"stages must have rising samples, got {starts}")
        return self


class Batch(Model):
    """How large the global batch is and how it may grow."""

    micro_batch_size: BatchSize
    """Samples in one forward and backward pass (m). Fixed for the life of the job."""
    initial: BatchSize
    """Global batch at the start, a multiple of microBatchSize."""
    max: BatchSize
    """Largest global batch: mandatory, because growth feeds itself."""
    max_accumulation: Annotated[int, Field(ge=1, le=65536)] = 4
    """Micro-batches a worker runs per step before more workers are asked for: a threshold, not a limit."""
    rule: Rule = Rule()
    shadow_rules: Annotated[tuple[Rule, ...], Field(max_length=8)] = ()
    """Rules that are measured and logged, never acted on."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        m = self.micro_batch_size
        for field, batch in (("initial", self.initial), ("max", self.max)):
            if batch % m:
                raise ValueError(f"{field} {batch} is not a multiple of microBatchSize {m}")
        if self.initial > self.max:
            raise ValueError(f"initial {self.initial} is above max {self.max}")
        for rule in (self.rule, *self.shadow_rules):
            for stage in rule.stages:
                if stage.batch % m or stage.batch > self.max:
                    raise ValueError(
                        f"stage batch {stage.batch} is not a multiple of microBatchSize {m}"
                        f" up to max {self.max}"
                    )
        return self


class ScheduleName(StrEnum):
    """Shapes of the learning rate over samples, after a linear warm-up."""

    COSINE = "Cosine"
    LINEAR = "Linear"
    WSD = "WSD"
    CONSTANT = "Constant"


class BatchLaw(StrEnum):
    """How the learning rate follows the effective batch."""

    NONE = "None"
    LINEAR = "Linear"
    SQUARE_ROOT = "SquareRoot"


class LearningRate(Model):
    """A schedule over samples, times a factor for the effective batch."""

    peak: Annotated[float, Field(gt=0, le=1000)] = 1e-3
    """Highest rate, at the reference batch."""
    schedule: ScheduleName = ScheduleName.COSINE
    warmup_samples: Count = 0
    """Samples of linear warm-up from zero."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate at the end, as a fraction of the peak."""
    decay_samples: Positive | None = None
    """WSD: samples of the final decay. Default: 20 % of the run."""
    batch_law: BatchLaw = BatchLaw.SQUARE_ROOT
    reference_batch: BatchSize | None = None
    """Batch at which the factor is 1. Default: batch.initial."""
    max_factor: Annotated[float, Field(ge=1, le=1024)] = 4.0
    """Largest factor that the batch law may reach."""


class Precision(StrEnum):
    """Type of parameters and activations in forward and backward; reduction and state stay float32."""

    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"


class GradientSync(StrEnum):
    """When gradients are reduced in a step of several micro-batches."""

    EVERY_MICRO_BATCH = "EveryMicroBatch"
    LAST_MICRO_BATCH = "LastMicroBatch"


class Training(Model):
    """How one step is run."""

    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient; statistics are taken before clipping."""
    precision: Precision = Precision.FLOAT32
    gradient_sync: GradientSync = GradientSync.EVERY_MICRO_BATCH
    """LastMicroBatch saves reductions and holds a whole unsharded gradient on every worker."""
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential average of the parameters, kept beside them."""
    evaluate_every_samples: Positive | None = None
    """Evaluate at the first step boundary at or after each multiple of this."""
    max_skipped_steps: Annotated[int, Field(ge=0, le=10**6)] = 5
    """Steps in a row that may be skipped before training stops."""
    spike_deviations: Annotated[float, Field(ge=2, le=1000)] | None = None
    """Skip a step whose loss lies this many standard deviations above its running mean. Absent: none."""
    roll_back_after: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Skipped steps in a row after which the newest snapshot is taken up again, with the samples since
    then left out; at most maxSkippedSteps. Absent: never."""
    loader_processes: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes that load samples ahead; 0 loads in the worker itself."""

    @model_validator(mode="after")
    def _rolls_back_before_it_stops(self) -> Self:
        after, limit = self.roll_back_after, self.max_skipped_steps
        if after is not None and after > limit:
            raise ValueError(f"rollBackAfter {after} is above maxSkippedSteps {limit}")
        return self


class Scaling(StrEnum):
    """Who acts on a plan."""

    AUTO = "Auto"
    RECOMMEND = "Recommend"
    OFF = "Off"


class ScalingPolicy(Model):
    """When and how fast the number of pods follows the batch."""

    mode: Scaling = Scaling.AUTO
    """Auto acts; Recommend explains everything and writes neither pod nor membership; Off does nothing."""
    scale_up_cooldown_seconds: Seconds = 60
    """Shortest time between a change of the wanted number of pods and one to more pods."""
    scale_down_cooldown_seconds: Seconds = 300
    """The same for a change to fewer pods."""
    ready_deadline_seconds: Seconds = 600
    """Pods that are not warm after this long are given back."""
    leave_deadline_seconds: Seconds = 60
    """A leaving pod that has not handed over after this long is deleted."""
    loss_confirm_seconds: Seconds = 5
    """Time a suspected member has to echo a probe."""


class Pods(Model):
    """How many pods; the world size is pods x workersPerPod."""

    min: Annotated[int, Field(ge=1, le=65536)] = 1
    """Fewest pods to train with by plan; a loss or a forced leave may leave fewer for a while."""
    max: Annotated[int, Field(ge=1, le=65536)] = 1
    """Most pods; what `kubectl scale` and autoscalers set."""
    allowed: Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(max_length=64)] = ()
    """Numbers of pods that the job may have; empty means any from min to max.

    Sizes above max are kept for the day when max is raised: an autoscaler moves it.
    """
    workers_per_pod: Annotated[int, Field(ge=1, le=64)] = 1
    """Training processes (GPUs) in a pod."""
    template: Mapping[str, Any] = Field(
        default_factory=dict, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )
    """A PodTemplateSpec; `concertina run` ignores it."""

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        below = [size for size in self.allowed if size < self.min]
        if below:
            raise ValueError(f"allowed {below} lies below min {self.min}")
        if self.allowed and min(self.allowed) > self.max:
            raise ValueError(f"allowed {list(self.allowed)} has no size up to max {self.max}")
        return self


class CheckpointInterval(StrEnum):
    """What says how often a checkpoint is saved."""

    FIXED = "Fixed"
    MEASURED = "Measured"


class Checkpoint(Model):
    """Durable state from which any world size can start."""

    path: Annotated[str, Field(min_length=1, max_length=1024)] = "checkpoints"
    """Folder that every worker can write, or a URL such as `s3://bucket/folder`.

    Relative paths are inside the run's folder; in other places each job has a folder of its name.
    """
    interval: CheckpointInterval = CheckpointInterval.FIXED
    """Fixed saves every everySeconds; Measured as often as the cost of a checkpoint and the rate of
    failures make best (Young 1974, Daly 2006), everySeconds being the longest."""
    every_seconds: Seconds | None = 600
    """Time between two checkpoints; null means only at the end and when the job leaves its pods."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 3
    """Newest checkpoints that are kept."""

    @field_validator("path")
    @classmethod
    def _is_a_place(cls, path: str) -> str:
        return check_location(path)


class SnapshotMode(StrEnum):
    """Whether copies of the state are kept in neighbours' memory."""

    AUTO = "Auto"
    OFF = "Off"


class Snapshots(Model):
    """Copies of the state in the memory of a neighbour's pod: a loss costs no checkpoint."""

    mode: SnapshotMode = SnapshotMode.AUTO
    """Auto keeps them where there is a neighbour and memory for them."""
    every_steps: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Steps between two snapshots. Absent: what costs at most maxCost, measured and adapted.

    Where losses come so often that the steps they take back cost more: what makes both least.
    """
    max_cost: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Largest share of the step time that snapshots may cost, as long as losses are rare."""


class FailurePolicy(Model):
    """When a job that keeps failing is given up."""

    backoff_limit: Annotated[int, Field(ge=0, le=10**6)] = 3
    """Failed rounds before the job fails; the count starts anew after 1,000 good steps.

    Only failures of the user's code count; lost pods and nodes do not.
    """
    arbiter_timeout_seconds: Seconds = 600
    """How long survivors of a broken round wait for an operator; then they save and exit."""
    avoid_node_after: Annotated[int, Field(ge=0, le=100)] = 3
    """Losses on one node within an hour after which new pods avoid it for an hour; 0: never."""


class CleanupPolicy(StrEnum):
    """Which pods are deleted when the job ends."""

    RUNNING = "Running"
    ALL = "All"
    NONE = "None"


class JobSpec(Model):
    """What to train and how far it may grow."""

    model: Factory
    """`module:object` of the training task."""
    config: Mapping[str, Any] = Field(
        default_factory=dict, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )
    """Free-form settings, handed to the task as keyword arguments."""
    samples: Positive | None = None
    """Length of the run in samples; `epochs` is the alternative."""
    epochs: Annotated[float, Field(gt=0, le=10**6)] | None = None
    """Length of the run in passes over the data set."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of initial parameters, of the order of samples and of augmentation."""
    batch: Batch
    learning_rate: LearningRate = LearningRate()
    training: Training = Training()
    pods: Pods = Pods()
    scaling: ScalingPolicy = ScalingPolicy()
    checkpoint: Checkpoint = Checkpoint()
    snapshots: Snapshots = Snapshots()
    failure_policy: FailurePolicy = FailurePolicy()
    suspend: bool = False
    """True: save a checkpoint and give back all pods. False: go on at the next sample."""
    managed_by: Annotated[str, Field(max_length=253)] | None = None
    """Who acts for the job; absent or `concertina.dev/operator` is this operator. Never changes."""
    cleanup_policy: CleanupPolicy = CleanupPolicy.RUNNING
    active_deadline_seconds: Seconds | None = None
    """The job fails after this long, the time while it was suspended left out. Absent: never."""
    ttl_seconds_after_finished: Seconds | None = None
    """The job is deleted this long after its end. Absent: it is kept."""

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if (self.samples is None) == (self.epochs is None):
            raise ValueError("give exactly one of samples and epochs")
        return self

    @model_validator(mode="after")
    def _has_snapshots_to_roll_back_to(self) -> Self:
        rolls_back = self.training.roll_back_after is not None
        if rolls_back and self.snapshots.mode is SnapshotMode.OFF:
            raise ValueError("training.rollBackAfter needs snapshots, and snapshots.mode is Off")
        return self


class Metadata(Model):
    """The part of Kubernetes' object metadata that the job itself needs."""

    name: JobName
    namespace: str = "default"
    uid: str = ""
    generation: Count = 0
    resource_version: str = ""
    labels: Mapping[str, str] = Field(default_factory=dict)
    annotations: Mapping[str, str] = Field(default_factory=dict)


class AdaptiveTrainingJob(Model):
    """A job: manifest and stored object alike."""

    api_version: Literal["concertina.dev/v1alpha1"] = API_VERSION
    kind: Literal["AdaptiveTrainingJob"] = "AdaptiveTrainingJob"
    metadata: Metadata
    spec: JobSpec
    status: JobStatus = JobStatus()
