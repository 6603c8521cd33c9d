"""Keeps account of what losses cost and what protects from them: snapshots, recoveries, stragglers.

Called by situation.py for the books and by statement.py for conditions and events. Reports are
untrusted: what they count is bounded by what the operator knows itself. Pure: no I/O, no clock.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from concertina_api.v1alpha1 import (
    ConditionType,
    JobSpec,
    JobStatus,
    Membership,
    RecoveryStatus,
    Report,
    Resize,
    SnapshotFacts,
    SnapshotMode,
    SnapshotStatus,
)
from concertina_api.v1alpha1.base import MAX_INT
from concertina_operator.acceptance import Standing
from concertina_operator.conditions import Claim
from concertina_operator.ledger import newest_progress, newest_resize

_OF_SOURCE: Final = {
    "memory": "what the others held",
    "snapshot": "a snapshot",
    "checkpoint": "a checkpoint",
    "seed": "the seed",
}


def leading_report(membership: Membership | None, standings: Iterable[Standing]) -> Report | None:
    """The report of the pod that leads the present round, which alone speaks for the job."""
    if membership is None or not membership.members:
        return None
    leader = membership.members[0].uid
    return next((entry.report for entry in standings if entry.pod.uid == leader), None)


def snapshot_status(before: SnapshotStatus, report: Report | None) -> SnapshotStatus:
    """The newest snapshot that the leader tells of."""
    facts = report.snapshot if report is not None else None
    if facts is None:
        return before
    return SnapshotStatus(
        step=facts.step, every_steps=facts.every_steps, seconds=facts.seconds, cost=facts.cost
    )


def recoveries(
    before: JobStatus, *, reports: Iterable[Report], membership: Membership | None, now: datetime
) -> RecoveryStatus:
    """The losses survived, after what is newly acknowledged.

    Steps count as lost also when those who would know are gone themselves: what the operator had
    heard of and the round begins without.
    """
    resize = recovered(before, reports=reports, membership=membership)
    if resize is None:
        return before.recoveries
    known = before.recoveries
    unheard = before.progress.step - resize.step
    return RecoveryStatus(
        count=known.count + 1,
        steps_lost=min(known.steps_lost + max(resize.steps_lost, unheard, 0), MAX_INT),
        source=resize.source,
        detection_seconds=resize.detection_seconds,
        pause_seconds=resize.pause_seconds,
        at=now,
    )


def recovered(
    before: JobStatus, *, reports: Iterable[Report], membership: Membership | None
) -> Resize | None:
    """The round that is newly acknowledged, if it began with a loss."""
    resize = newest_resize(reports)
    if resize is None or not before.committed_round or resize.round <= before.committed_round:
        return None
    names_a_loss = bool(_lost_in(resize, membership))
    goes_back = resize.step < before.progress.step
    return resize if resize.lost or resize.steps_lost or names_a_loss or goes_back else None


def useful_gpu_seconds(
    before: JobStatus, *, reports: Iterable[Report], gpu_seconds: float
) -> float:
    """GPU seconds in the steps that led to the newest state; never more than were held.

    They fall when steps are lost.
    """
    progress = newest_progress(reports)
    useful = before.useful_gpu_seconds if progress is None else progress.useful_seconds
    return round(min(useful, gpu_seconds), 3)


def recovery_in_words(
    after: JobStatus, *, before: JobStatus, resize: Resize, membership: Membership | None
) -> str:
    """What an event tells of a recovery."""
    lost = _lost_in(resize, membership)
    without = f" without {', '.join(lost)}" if lost else ""
    source = _OF_SOURCE.get(resize.source, resize.source)
    steps = after.recoveries.steps_lost - before.recoveries.steps_lost
    noticed = (
        f", noticed after {resize.detection_seconds:.3g} s"
        if resize.detection_seconds is not None
        else ""
    )
    return (
        f"round {resize.round}: {resize.world_size} worker(s) go on{without}, state of step"
        f" {resize.step} from {source}, {steps} steps lost, {resize.pause_seconds:.3g} s{noticed}"
    )


def snapshots_taken(
    spec: JobSpec, *, membership: Membership | None, report: Report | None
) -> Claim | None:
    """Whether the loss of a pod costs no checkpoint; None when nobody can say yet."""
    kind = ConditionType.SNAPSHOTS_TAKEN
    if spec.snapshots.mode is SnapshotMode.OFF:
        return Claim(type=kind, holds=False, reason="Disabled", message="snapshots.mode is Off")
    if membership is None or not membership.members:
        return None
    facts = (report.snapshot if report is not None else None) or SnapshotFacts()
    if len(membership.members) == 1:
        message = "one pod has no neighbour to keep a copy"
        return Claim(type=kind, holds=False, reason="SinglePod", message=message)
    if facts.off:
        reason = "NotTaken" if facts.fits else "MemoryTooSmall"
        return Claim(type=kind, holds=False, reason=reason, message=facts.off)
    if facts.step is None or not facts.every_steps:
        message = "no snapshot is complete yet"
        return Claim(type=kind, holds=False, reason="NotYet", message=message)
    message = (
        f"every {facts.every_steps} steps, at {100 * facts.cost:.2g} % of the step time;"
        f" the newest at step {facts.step}"
    )
    return Claim(type=kind, holds=True, reason="Complete", message=message)


def slow(membership: Membership | None, report: Report | None) -> Claim:
    """Whether a pod keeps the others waiting."""
    kind = ConditionType.SLOW
    members = {member.pod for member in membership.members} if membership is not None else set()
    names = [name for name in (report.slow if report is not None else ()) if name in members]
    if not names:
        return Claim(type=kind, holds=False, reason="NobodyWaits")
    message = f"the others wait for {', '.join(names)}"
    return Claim(type=kind, holds=True, reason="PodSlow", message=message)


def _lost_in(resize: Resize, membership: Membership | None) -> tuple[str, ...]:
    """Pods that the round names as lost, while it is the present one."""
    if membership is None or membership.round != resize.round:
        return ()
    return tuple(dict.fromkeys(member.pod for member in membership.lost))
