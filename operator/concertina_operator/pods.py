"""Decides which pods to create and to delete around a membership. Called by plan.py.

Pure: no I/O, no clock. Pods of the membership are kept, pods that have handed over or ended are
deleted, pods that start are kept up to the wanted number and given back when they are not admitted
within `readyDeadlineSeconds`. No pod is created while as many as allowed still hold a place.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count, islice

from concertina_api.v1alpha1 import CleanupPolicy, PodPhase, ScalingPolicy
from concertina_operator.acceptance import Standing
from concertina_operator.actions import CreatePod, DeletePod
from concertina_operator.departures import InForce, deletion, departures, leave_limit


@dataclass(frozen=True, slots=True, kw_only=True)
class PodChanges:
    """Pods to create and to delete, and when to look again."""

    create: tuple[CreatePod, ...] = ()
    delete: tuple[DeletePod, ...] = ()
    given_back: tuple[str, ...] = ()
    """Pods that were not admitted in time, by name; they are among the deleted."""
    starting: tuple[str, ...] = ()
    """Pods that are kept and in no round yet, by name."""
    avoid: tuple[str, ...] = ()
    """Nodes that new pods are kept off."""
    requeue_after: timedelta | None = None


def pod_changes(
    job_name: str,
    standings: Iterable[Standing],
    *,
    in_force: InForce,
    policy: ScalingPolicy,
    wanted: int,
    ceiling: int,
    waiting_since: datetime | None,
    not_before: datetime | None,
    now: datetime,
    avoid: tuple[str, ...] = (),
) -> PodChanges:
    """Changes that a running job needs; a job that gives all its pods back wants 0.

    At most `ceiling` pods hold a place at once; `waiting_since` is since when no pod trains;
    `avoid` are nodes that new pods are kept off.
    """
    present = tuple(standings)
    departing = tuple(departures(present, in_force=in_force, policy=policy, now=now))
    going = {deletion.uid for deletion in departing}
    starting = _starting(present, in_force=in_force, going=going)
    room = max(wanted - len(in_force.members), 0)
    kept, surplus = starting[:room], starting[room:]

    deadline = timedelta(seconds=policy.ready_deadline_seconds)
    began = [moment for moment in (in_force.since, waiting_since) if moment is not None]
    left = {entry.pod.uid: max([entry.pod.waits_since, *began]) + deadline - now for entry in kept}
    late = [
        entry
        for entry in kept
        if left[entry.pod.uid] <= timedelta(0) and (in_force.committed or not entry.is_warm)
    ]
    kept = [entry for entry in kept if entry not in late]

    places = _places(present, in_force=in_force, going=going)
    missing = 0 if late else max(min(room - len(kept), ceiling - places), 0)
    pause = not_before - now if not_before is not None else timedelta(0)
    moments = [left[entry.pod.uid] for entry in kept]
    moments += [pause] if missing else []
    if in_force.since is not None:
        moments += [
            in_force.since + leave_limit(entry, in_force=in_force, policy=policy) - now
            for entry in present
            if entry.pod.uid in in_force.leaving and not entry.pod.deleting
        ]
    return PodChanges(
        create=creations(
            job_name, missing, taken={entry.pod.name for entry in present}, avoid=avoid
        )
        if pause <= timedelta(0)
        else (),
        delete=(
            *departing,
            *(deletion(entry, reason=f"surplus: {wanted} wanted") for entry in surplus),
            *(
                deletion(entry, reason=f"not admitted within {deadline.total_seconds():g} s")
                for entry in late
            ),
        ),
        given_back=tuple(entry.pod.name for entry in late),
        starting=tuple(entry.pod.name for entry in kept),
        avoid=avoid,
        requeue_after=min((wait for wait in moments if wait > timedelta(0)), default=None),
    )


def creations(
    job_name: str, number: int, *, taken: Collection[str], avoid: tuple[str, ...] = ()
) -> tuple[CreatePod, ...]:
    """The lowest numbers for which no pod object exists; those that terminate are taken, too."""
    free = (index for index in count() if f"{job_name}-{index}" not in taken)
    return tuple(
        CreatePod(name=f"{job_name}-{index}", index=index, avoid=avoid)
        for index in islice(free, number)
    )


def cleanup(
    standings: Iterable[Standing],
    *,
    in_force: InForce,
    lost: Collection[str],
    which: CleanupPolicy,
    policy: ScalingPolicy,
    ended_at: datetime | None,
    now: datetime,
) -> PodChanges:
    """Changes after the job has ended or was suspended: pods may exit by themselves first.

    `lost` are the uids of members that hold nothing any more; workers that were started anew in
    such a pod wait for a round that will not come. A sidecar may keep a pod whose trainer has ended.
    """
    if which is CleanupPolicy.NONE:
        return PodChanges()
    moments = [moment for moment in (in_force.since, ended_at) if moment is not None]
    limit = timedelta(seconds=policy.leave_deadline_seconds)
    left = max(moments, default=now) + limit - now
    named = (in_force.members | in_force.leaving).difference(lost)
    delete, is_waiting = [], False
    for standing in standings:
        pod = standing.pod
        if pod.deleting or (pod.is_terminal and which is CleanupPolicy.RUNNING):
            continue
        is_free = pod.uid not in named or standing.has_phase(PodPhase.LEFT)
        is_over = pod.ended and which is CleanupPolicy.ALL
        if is_over or is_free or left <= timedelta(0):
            delete.append(deletion(standing, reason="the job has ended or is suspended"))
        else:
            is_waiting = True
    return PodChanges(delete=tuple(delete), requeue_after=left if is_waiting else None)


def _starting(
    standings: Iterable[Standing], *, in_force: InForce, going: Collection[str]
) -> list[Standing]:
    """Pods that may join: warm ones first, then the oldest."""
    named = in_force.members | in_force.leaving
    found = [
        standing
        for standing in standings
        if standing.is_alive
        and not standing.is_leaving
        and standing.pod.uid not in named
        and standing.pod.uid not in going
    ]
    return sorted(found, key=lambda entry: (not entry.is_warm, entry.pod.created, entry.pod.name))


def _places(standings: Iterable[Standing], *, in_force: InForce, going: Collection[str]) -> int:
    """Pods that hold a place: not those that are on their way out and have nothing to hand over."""
    named = in_force.members if in_force.committed else in_force.members | in_force.leaving
    return sum(
        not standing.pod.ended
        and standing.pod.uid not in going
        and (not standing.pod.deleting or standing.pod.uid in named)
        for standing in standings
    )
