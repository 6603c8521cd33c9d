"""Decides what the metrics say of a pod and, from its leader's status, of the job.

Called by metrics.py with the newest statuses. What nobody knows is absent. Pure: no I/O, no clock.
"""

from collections.abc import Sequence

from concertina_api.v1alpha1 import Resize
from concertina_trainer.agent.mailbox import WorkerStatus


def pod_values(statuses: Sequence[WorkerStatus]) -> dict[str, float]:
    """What each pod tells about its own workers."""
    values = {
        "concertina_worker_state_bytes": max((s.state_bytes or 0 for s in statuses), default=0),
        "concertina_worker_peak_bytes": max((s.peak_bytes or 0 for s in statuses), default=0),
        "concertina_device_memory_bytes": sum(s.device_bytes or 0 for s in statuses),
    }
    return {name: float(value) for name, value in values.items() if value}


def job_values(leader: WorkerStatus) -> dict[str, float]:
    """What the leader tells about the job."""
    progress, request, resize = leader.progress, leader.request, leader.acknowledged
    values: dict[str, float | None] = {
        "concertina_round": leader.round,
        "concertina_step_seconds": leader.step_seconds,
        "concertina_checkpoint_blocking_seconds": leader.checkpoint_blocking_seconds,
        "concertina_checkpoint_seconds": leader.checkpoint_seconds,
        "concertina_checkpoint_interval_seconds": leader.checkpoint_interval_seconds,
        "concertina_last_resize_pause_seconds": resize.pause_seconds if resize else None,
        "concertina_slow_pods": len(leader.slow),
    }
    if progress is not None:
        rate, tokens = progress.samples_per_second, leader.tokens_per_sample
        values |= {
            "concertina_tokens_per_second": rate * tokens if rate and tokens else None,
            "concertina_loss": progress.loss,
            "concertina_samples_per_second": progress.samples_per_second,
            "concertina_world_size": progress.world_size,
            "concertina_noise_scale_samples": progress.noise_scale,
            "concertina_global_batch_effective_samples": progress.global_batch_size,
            "concertina_global_batch_requested_samples": progress.global_batch_size,
        }
    if request is not None:
        values["concertina_global_batch_requested_samples"] = request.requested
    if leader.measured is not None:
        told = ((name, value) for name, value in leader.measured if value is not None)
        values |= {f"concertina_{name}": value for name, value in told}
    values |= _snapshot_values(leader)
    return {name: float(value) for name, value in values.items() if value is not None}


def recovery_values(newest: Resize | None) -> dict[str, float]:
    """What the newest loss cost, if there was one."""
    if newest is None:
        return {}
    values = {"concertina_recovery_seconds": newest.pause_seconds}
    if newest.detection_seconds is not None:
        values["concertina_detection_seconds"] = newest.detection_seconds
    return values


def births(leader: WorkerStatus) -> dict[str, float]:
    """When the state was as in the newest checkpoint and in the newest snapshot, by their ages."""
    found = {
        "concertina_checkpoint_age_seconds": leader.safe_at,
        "concertina_snapshot_age_seconds": leader.snapshot_at if _takes(leader) else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _snapshot_values(leader: WorkerStatus) -> dict[str, float]:
    """What the leader tells about snapshots, while any are taken; of time only once there is one."""
    snapshot = leader.snapshot
    if snapshot is None or not _takes(leader):
        return {}
    values: dict[str, float] = {"concertina_snapshot_interval_steps": snapshot.every_steps}
    if leader.progress is not None:
        # Before the first is complete all steps are unprotected, for which there is an alert.
        age = max(0, leader.progress.step - (snapshot.step or 0))
        values["concertina_snapshot_age_steps"] = age
    if leader.snapshot_at is not None:
        values["concertina_snapshot_seconds"] = snapshot.seconds
        values["concertina_snapshot_cost_ratio"] = snapshot.cost
    return values


def _takes(leader: WorkerStatus) -> bool:
    """Whether snapshots are taken now."""
    return leader.snapshot is not None and leader.snapshot.every_steps > 0
