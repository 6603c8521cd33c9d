"""The table of the trainer's metrics that code, docs, dashboards and alerts share.

Pure: no I/O, no clock. metrics.py gives each its value.
"""

from dataclasses import dataclass
from typing import Final, Literal

JOB: Final = ("namespace", "job")
"""Labels that every series has: the training job's."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table."""

    name: str
    type: Literal["counter", "gauge"]
    unit: str
    help: str
    labels: tuple[str, ...] = JOB
    """Of its series; JOB, and at most one of its own."""


METRICS: Final = (
    Metric("concertina_loss", "gauge", "", "Training loss of the newest step."),
    Metric("concertina_samples_total", "counter", "samples", "Samples trained."),
    Metric("concertina_steps_total", "counter", "steps", "Optimizer steps taken."),
    Metric(
        "concertina_tokens_total",
        "counter",
        "tokens",
        "Tokens trained; of a task that tells how many a sample has.",
    ),
    Metric(
        "concertina_skipped_steps_total",
        "counter",
        "steps",
        "Steps that changed no parameter: a loss or gradient not finite, or a spike.",
    ),
    Metric("concertina_samples_per_second", "gauge", "samples/s", "Throughput of training."),
    Metric(
        "concertina_tokens_per_second",
        "gauge",
        "tokens/s",
        "The same in tokens, where the task tells.",
    ),
    Metric("concertina_step_seconds", "gauge", "s", "Duration of the newest step."),
    Metric(
        "concertina_global_batch_requested_samples",
        "gauge",
        "samples",
        "Global batch that the newest decision of the rule asks for, at most batch.max.",
    ),
    Metric(
        "concertina_global_batch_effective_samples",
        "gauge",
        "samples",
        "Global batch that runs, after cap and grid.",
    ),
    Metric(
        "concertina_accumulation_micro_batches",
        "gauge",
        "micro-batches",
        "Micro-batches that one worker ran in the newest step.",
    ),
    Metric("concertina_learning_rate", "gauge", "", "Learning rate of the newest step."),
    Metric(
        "concertina_gradient_norm",
        "gauge",
        "",
        "Norm of the gradient of the newest step, before clipping.",
    ),
    Metric(
        "concertina_gradient_variance",
        "gauge",
        "",
        "Variance of one sample's gradient, smoothed as the rule has it.",
    ),
    Metric("concertina_noise_scale_samples", "gauge", "samples", "Gradient noise scale, smoothed."),
    Metric(
        "concertina_noise_estimate_age_samples",
        "gauge",
        "samples",
        "Samples since a step last told anything about gradient noise; of a rule that measures it.",
    ),
    Metric(
        "concertina_rule_ratio",
        "gauge",
        "",
        "Batch that the gradient asks for over the batch that runs; none for Ramp and Fixed.",
    ),
    Metric(
        "concertina_rule_threshold",
        "gauge",
        "",
        "Ratio from which the next decision grows the batch.",
    ),
    Metric("concertina_world_size", "gauge", "workers", "Workers of the round."),
    Metric("concertina_round", "gauge", "", "Number of the round that the workers are in."),
    Metric("concertina_resizes_total", "counter", "resizes", "Rounds committed after the first."),
    Metric(
        "concertina_resize_pause_seconds_total",
        "counter",
        "s",
        "Time between the last step of a round and the first of the next, over all resizes.",
    ),
    Metric("concertina_last_resize_pause_seconds", "gauge", "s", "Pause of the newest resize."),
    Metric(
        "concertina_last_resize_phase_seconds",
        "gauge",
        "s",
        "Parts of that pause, by label phase.",
        (*JOB, "phase"),
    ),
    Metric(
        "concertina_micro_batches_recomputed_total",
        "counter",
        "micro-batches",
        "Micro-batches run again because a leave could not wait for their step.",
    ),
    Metric(
        "concertina_checkpoint_blocking_seconds",
        "gauge",
        "s",
        "Time that training waited for the newest checkpoint.",
    ),
    Metric(
        "concertina_checkpoint_seconds",
        "gauge",
        "s",
        "Time from the copy of the newest checkpoint until it was durable.",
    ),
    Metric(
        "concertina_checkpoint_age_seconds",
        "gauge",
        "s",
        "Age of the state in the newest durable checkpoint; before the first one in which the pod has a"
        " part, since it joined.",
    ),
    Metric(
        "concertina_checkpoint_interval_seconds",
        "gauge",
        "s",
        "Time between two checkpoints as the job has it; absent when it saves at its ends alone, or"
        " when nothing can be saved because several pods share no folder.",
    ),
    Metric(
        "concertina_checkpoint_failures_total",
        "counter",
        "checkpoints",
        "Checkpoints that could not be saved; training goes on, and the older ones stay.",
    ),
    Metric(
        "concertina_snapshot_age_seconds",
        "gauge",
        "s",
        "Age of the state in the newest snapshot that all workers hold.",
    ),
    Metric(
        "concertina_snapshot_age_steps",
        "gauge",
        "steps",
        "Steps since the newest snapshot that all workers hold, which is what the loss of a pod costs;"
        " absent while none are taken.",
    ),
    Metric(
        "concertina_snapshot_interval_steps",
        "gauge",
        "steps",
        "Steps between two snapshots as their cost allows it now; absent while none are taken.",
    ),
    Metric(
        "concertina_snapshot_seconds",
        "gauge",
        "s",
        "Time from the copy of the newest snapshot until every neighbour had it.",
    ),
    Metric(
        "concertina_snapshot_cost_ratio",
        "gauge",
        "",
        "Share of the step time that snapshots take, measured.",
    ),
    Metric(
        "concertina_snapshots_total", "counter", "snapshots", "Snapshots that all workers hold."
    ),
    Metric(
        "concertina_snapshot_failures_total",
        "counter",
        "snapshots",
        "Snapshots that were not completed, but those that a resize broke off.",
    ),
    Metric(
        "concertina_recoveries_total",
        "counter",
        "recoveries",
        "Rounds that went on after a loss, by the source of their state: memory, snapshot, checkpoint"
        " or seed.",
        (*JOB, "source"),
    ),
    Metric(
        "concertina_recovery_seconds",
        "gauge",
        "s",
        "Time from the last step before the newest loss to the first step after it.",
    ),
    Metric(
        "concertina_detection_seconds",
        "gauge",
        "s",
        "Part of it until the membership named the loss.",
    ),
    Metric(
        "concertina_steps_lost_total",
        "counter",
        "steps",
        "Steps that had been done and were run again after a loss.",
    ),
    Metric(
        "concertina_rollbacks_total",
        "counter",
        "rollbacks",
        "Times that skipped steps led back to a snapshot.",
    ),
    Metric("concertina_slow_pods", "gauge", "pods", "Pods whose workers the others wait for."),
    Metric("concertina_worker_restarts_total", "counter", "restarts", "Starts after a failure."),
    Metric(
        "concertina_worker_state_bytes",
        "gauge",
        "bytes",
        "Parameters and optimizer state of the largest worker of the pod.",
    ),
    Metric(
        "concertina_worker_peak_bytes", "gauge", "bytes", "Largest memory of a worker of the pod."
    ),
    Metric(
        "concertina_device_memory_bytes",
        "gauge",
        "bytes",
        "Memory that the pod's workers hold on their GPUs.",
        (*JOB, "pod"),
    ),
    Metric(
        "concertina_device_energy_joules_total",
        "counter",
        "J",
        "Energy that the pod's GPUs have used, where they tell.",
        (*JOB, "pod"),
    ),
)
"""Every metric of the trainer."""

SOURCES: Final = ("memory", "snapshot", "checkpoint", "seed")
"""Where the state of a round comes from."""
