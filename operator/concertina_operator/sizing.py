"""Decides how many pods a job should have, from the batch that it runs. Called by plan.py.

Pure: no I/O, no clock. With N = effective batch / m micro-batches in a step, no worker should run
more than `maxAccumulation` of them: workers = ceil(N / maxAccumulation), pods =
ceil(workers / workersPerPod), rounded up to an allowed size. The precedence is
max > granted > request: a limit is obeyed at once, a request waits for its cooldown.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from concertina_api.batch import accumulation, num_micro_batches, workers_for
from concertina_api.v1alpha1 import JobSpec, Pods


class SizingReason(StrEnum):
    """Why the job wants the pods that it wants; also the reason of RequestSatisfied."""

    SATISFIED = "Satisfied"
    SCALING_UP = "ScalingUp"
    SCALING_DOWN = "ScalingDown"
    COOLING_DOWN = "CoolingDown"
    AT_MAXIMUM = "AtMaximum"
    NOT_GRANTED = "NotGranted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """The wanted number of pods and why."""

    wanted: int
    needed: int
    """Pods that the request alone would need, before allowed sizes and limits."""
    reason: SizingReason
    message: str
    """One sentence with the numbers."""
    requeue_after: timedelta | None = None
    """Time until the cooldown is over."""


def sizing(
    spec: JobSpec,
    *,
    effective: int,
    wanted_before: int,
    granted: int | None,
    scaled_at: datetime | None,
    now: datetime,
) -> Sizing:
    """Wanted pods for a batch of `effective` samples, when `wanted_before` are wanted now.

    `scaled_at` is when that number last changed; None (or `wanted_before` 0: a start) means that
    no cooldown applies. `granted` below every allowed size wants no pods at all.
    """
    pods = spec.pods
    ceiling = pods.max if granted is None else min(pods.max, granted)
    needed = needed_pods(spec, effective=effective)
    size = fitting_size(pods, needed=needed, ceiling=ceiling)
    demand = _demand(spec, effective=effective, num_pods=wanted_before or max(size, 1))
    if size == 0:
        message = f"granted {_count(ceiling)} < smallest allowed size {smallest_size(pods)}"
        return Sizing(
            wanted=0,
            needed=needed,
            reason=SizingReason.NOT_GRANTED,
            message=f"{message} -> wants 0 pods",
        )

    at_once = wanted_before > ceiling or not is_allowed(pods, size=wanted_before)
    if not at_once and size != wanted_before and scaled_at is not None:
        policy = spec.scaling
        growing = size > wanted_before
        seconds = (
            policy.scale_up_cooldown_seconds if growing else policy.scale_down_cooldown_seconds
        )
        left = scaled_at + timedelta(seconds=seconds) - now
        if left > timedelta(0):
            direction = "up" if growing else "down"
            return Sizing(
                wanted=wanted_before,
                needed=needed,
                reason=SizingReason.COOLING_DOWN,
                message=f"{demand}, {_sizes(pods)} -> {_count(size)}, but the cooldown of {seconds} s"
                f" for scaling {direction} since the last change of size is not over:"
                f" keeps {_count(wanted_before)}",
                requeue_after=left,
            )

    reason = _reason(pods, needed=needed, size=size, before=wanted_before, granted=granted)
    verb = "keeps" if size == wanted_before else "wants"
    return Sizing(
        wanted=size,
        needed=needed,
        reason=reason,
        message=f"{demand}, {_sizes(pods)}{_limit(reason, needed=needed, ceiling=ceiling)}"
        f" -> {verb} {_count(size)}",
    )


def needed_pods(spec: JobSpec, *, effective: int) -> int:
    """Pods at which no worker runs more than maxAccumulation micro-batches of a step."""
    micro_batches = num_micro_batches(effective, spec.batch.micro_batch_size)
    workers = workers_for(micro_batches, spec.batch.max_accumulation)
    return -(-workers // spec.pods.workers_per_pod)


def fitting_size(pods: Pods, *, needed: int, ceiling: int) -> int:
    """Smallest allowed size of at least `needed`, else the largest up to `ceiling`, else 0."""
    if not pods.allowed:
        return min(max(needed, pods.min), ceiling) if ceiling >= pods.min else 0
    sizes = sorted(size for size in pods.allowed if size <= ceiling)
    return next((size for size in sizes if size >= needed), sizes[-1] if sizes else 0)


def largest_size(pods: Pods, *, at_most: int) -> int:
    """Largest allowed size up to `at_most`, or 0."""
    return fitting_size(pods, needed=at_most, ceiling=min(at_most, pods.max))


def smallest_size(pods: Pods) -> int:
    """The smallest size at which the job may run by plan."""
    return min(pods.allowed) if pods.allowed else pods.min


def is_allowed(pods: Pods, *, size: int) -> bool:
    """Whether a job may run with `size` pods by plan."""
    return size in pods.allowed if pods.allowed else pods.min <= size <= pods.max


def _demand(spec: JobSpec, *, effective: int, num_pods: int) -> str:
    micro_batches = num_micro_batches(effective, spec.batch.micro_batch_size)
    workers = num_pods * spec.pods.workers_per_pod
    limit = spec.batch.max_accumulation
    each = accumulation(micro_batches, workers)
    return (
        f"{_plural(micro_batches, 'micro-batch', 'micro-batches')} over"
        f" {_plural(workers, 'worker', 'workers')}"
        f" {'>' if each > limit else '<='} maxAccumulation {limit}"
    )


def _reason(
    pods: Pods, *, needed: int, size: int, before: int, granted: int | None
) -> SizingReason:
    if needed > size:
        limited = granted is not None and granted < pods.max
        return SizingReason.NOT_GRANTED if limited else SizingReason.AT_MAXIMUM
    if before in (0, size):
        return SizingReason.SATISFIED
    return SizingReason.SCALING_UP if size > before else SizingReason.SCALING_DOWN


def _limit(reason: SizingReason, *, needed: int, ceiling: int) -> str:
    if reason is SizingReason.AT_MAXIMUM:
        return f", needs {_count(needed)} but max is {ceiling}"
    if reason is SizingReason.NOT_GRANTED:
        return f", needs {_count(needed)} but granted are {ceiling}"
    return ""


def _sizes(pods: Pods) -> str:
    if pods.allowed:
        return f"allowed sizes {', '.join(str(size) for size in sorted(pods.allowed))}"
    return f"allowed sizes {pods.min} to {pods.max}"


def _count(num_pods: int) -> str:
    return _plural(num_pods, "pod", "pods")


def _plural(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
