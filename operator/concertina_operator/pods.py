"""Decides which pods to create and to delete around a membership. Called by plan.py.

Pure: no I/O, no clock. Pods of the membership are kept, pods that have handed over or ended are
deleted, pods that start are kept up to the wanted number and given back when they are not admitted
within `readyDeadlineSeconds`. No pod is created while as many as allowed still hold a place.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count, islice

from concertina_api.v1alpha1 import (
    CleanupPolicy,
    Membership,
    PodPhase,
    ScalingPolicy,
)
from concertina_operator.acceptance import Standing
from concertina_operator.actions import CreatePod, DeletePod

OVER = (PodPhase.FAILED, PodPhase.LEFT, PodPhase.FINISHED)
"""Phases after which a pod that no round names has nothing left to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """The membership that is in force and how far it got."""

    membership: Membership | None
    committed: bool
    since: datetime | None
    """When it was published."""

    @property
    def members(self) -> frozenset[str]:
        """Pod uids that train."""
        return frozenset(
            member.uid for member in (self.membership.members if self.membership else ())
        )

    @property
    def leaving(self) -> frozenset[str]:
        """Pod uids that are listed as leaving."""
        return frozenset(
            member.uid for member in (self.membership.leaving if self.membership else ())
        )

    def lists_as_lost(self, standing: Standing) -> bool:
        """Whether the pod's present workers are listed as lost."""
        if self.membership is None or standing.pod.uid in self.members | self.leaving:
            return False
        incarnation = standing.report.incarnation if standing.report else None
        return any(
            member.uid == standing.pod.uid and incarnation in (None, member.incarnation)
            for member in self.membership.lost
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PodChanges:
    """Pods to create and to delete, and when to look again."""

    create: tuple[CreatePod, ...] = ()
    delete: tuple[DeletePod, ...] = ()
    given_back: tuple[str, ...] = ()
    """Pods that were not admitted in time, by name; they are among the deleted."""
    starting: tuple[str, ...] = ()
    """Pods that are kept and in no round yet, by name."""
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
) -> PodChanges:
    """Changes that a running job needs; a job that gives all its pods back wants 0.

    At most `ceiling` pods hold a place at once; `waiting_since` is since when no pod trains.
    """
    present = tuple(standings)
    departing = tuple(departures(present, in_force=in_force, policy=policy, now=now))
    going = {deletion.uid for deletion in departing}
    starting = _starting(present, in_force=in_force, going=going)
    room = max(wanted - len(in_force.members), 0)
    kept, surplus = starting[:room], starting[room:]

    deadline = timedelta(seconds=policy.ready_deadline_seconds)
    began = [moment for moment in (in_force.since, waiting_since) if moment is not None]
    left = {
        entry.pod.uid: max(entry.pod.created, *began, entry.pod.created) + deadline - now
        for entry in kept
    }
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
    moments += _leave_waits(in_force, policy=policy, now=now)
    return PodChanges(
        create=_creations(job_name, missing, taken=present) if pause <= timedelta(0) else (),
        delete=(
            *departing,
            *(_deletion(entry, reason=f"surplus: {wanted} wanted") for entry in surplus),
            *(
                _deletion(entry, reason=f"not admitted within {deadline.seconds} s")
                for entry in late
            ),
        ),
        given_back=tuple(entry.pod.name for entry in late),
        starting=tuple(entry.pod.name for entry in kept),
        requeue_after=min((wait for wait in moments if wait > timedelta(0)), default=None),
    )


def departures(
    standings: Iterable[Standing], *, in_force: InForce, policy: ScalingPolicy, now: datetime
) -> Iterator[DeletePod]:
    """Pods that have nothing left to do: ended, lost, or handed over."""
    overdue = any(wait <= timedelta(0) for wait in _leave_waits(in_force, policy=policy, now=now))
    for standing in standings:
        pod = standing.pod
        if pod.deleting:
            continue
        if pod.ended:
            yield _deletion(standing, reason=_ending(standing))
        elif in_force.lists_as_lost(standing):
            yield _deletion(standing, reason="lost", grace_seconds=0)
        elif pod.uid in in_force.leaving:
            if in_force.committed or standing.has_phase(PodPhase.LEFT) or overdue:
                reason = (
                    "handed over"
                    if not overdue or in_force.committed
                    else (f"not handed over within {policy.leave_deadline_seconds} s")
                )
                yield _deletion(standing, reason=reason)
        elif pod.uid not in in_force.members and standing.has_phase(*OVER):
            yield _deletion(standing, reason=_ending(standing))
        elif pod.uid not in in_force.members and standing.is_leaving:
            yield _deletion(standing, reason="told to end before it was in a round")


def cleanup(
    standings: Iterable[Standing],
    *,
    in_force: InForce,
    which: CleanupPolicy,
    policy: ScalingPolicy,
    ended_at: datetime | None,
    now: datetime,
) -> PodChanges:
    """Changes after the job has ended or was suspended: pods may exit by themselves first."""
    if which is CleanupPolicy.NONE:
        return PodChanges()
    moments = [moment for moment in (in_force.since, ended_at) if moment is not None]
    left = max(moments, default=now) + timedelta(seconds=policy.leave_deadline_seconds) - now
    delete, is_waiting = [], False
    for standing in standings:
        pod = standing.pod
        if pod.deleting or (pod.ended and which is CleanupPolicy.RUNNING):
            continue
        named = pod.uid in in_force.members | in_force.leaving
        if pod.ended or not named or standing.has_phase(PodPhase.LEFT) or left <= timedelta(0):
            delete.append(_deletion(standing, reason="the job has ended or is suspended"))
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


def _creations(job_name: str, number: int, *, taken: Iterable[Standing]) -> tuple[CreatePod, ...]:
    """The lowest numbers for which no pod object exists, terminating ones included."""
    names = {standing.pod.name for standing in taken}
    free = (index for index in count() if f"{job_name}-{index}" not in names)
    return tuple(
        CreatePod(name=f"{job_name}-{index}", index=index) for index in islice(free, number)
    )


def _leave_waits(in_force: InForce, *, policy: ScalingPolicy, now: datetime) -> list[timedelta]:
    """Time until leavers are deleted; negative when it is over, empty when nobody leaves."""
    if in_force.committed or in_force.since is None or not in_force.leaving:
        return []
    return [in_force.since + timedelta(seconds=policy.leave_deadline_seconds) - now]


def _ending(standing: Standing) -> str:
    if standing.pod.exit_code is not None:
        return f"ended with code {standing.pod.exit_code}"
    if standing.pod.ended or standing.report is None:
        return f"phase {standing.pod.phase.value}"
    return f"reports {standing.report.phase.value}"


def _deletion(standing: Standing, *, reason: str, grace_seconds: int | None = None) -> DeletePod:
    return DeletePod(
        name=standing.pod.name,
        uid=standing.pod.uid,
        reason=reason,
        grace_seconds=grace_seconds,
    )
