"""Decides which pods have nothing left to do: ended, lost, or handed over. Called by pods.py.

Pure: no I/O, no clock. A leaver is deleted once the round that lists it is acknowledged, or when its
time is over; a pod that was told to end by others exits by itself.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from concertina_api.v1alpha1 import Membership, PodPhase, ScalingPolicy
from concertina_operator.acceptance import Standing
from concertina_operator.actions import DeletePod

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

    @property
    def lost(self) -> Mapping[str, str]:
        """Pod uids that are listed as lost, with the incarnation that is."""
        lost = self.membership.lost if self.membership else ()
        return {member.uid: member.incarnation for member in lost}


def departures(
    standings: Iterable[Standing], *, in_force: InForce, policy: ScalingPolicy, now: datetime
) -> Iterator[DeletePod]:
    """Pods that have nothing left to do: ended, lost, or handed over.

    A pod that was told to end by others exits by itself, and a second order would cut its leave
    short: it comes only when the pod must have hung.
    """
    elapsed = now - in_force.since if in_force.since is not None else timedelta(0)
    members, leaving, lost = in_force.members, in_force.leaving, in_force.lost
    for standing in standings:
        pod = standing.pod
        if pod.deleting:
            continue
        if pod.ended:
            yield deletion(standing, reason=_ending(standing))
        elif pod.uid in members:
            continue
        elif pod.uid in leaving:
            limit = leave_limit(standing, in_force=in_force, policy=policy)
            if elapsed >= limit:
                seconds = limit.total_seconds()
                reason = "handed over" if not limit else f"still there after {seconds:g} s"
                yield deletion(standing, reason=reason)
        elif standing.has_phase(*OVER):
            yield deletion(standing, reason=_ending(standing))
        elif pod.uid in lost and standing.incarnation in (None, lost[pod.uid]):
            yield deletion(standing, reason="lost", grace_seconds=0)
        elif standing.is_leaving:
            reason = standing.notice or "told to end before it was in a round"
            yield deletion(standing, reason=reason)


def leave_limit(standing: Standing, *, in_force: InForce, policy: ScalingPolicy) -> timedelta:
    """Time that a leaver has, from the round that says so, before it is deleted."""
    has_handed_over = in_force.committed or standing.has_phase(PodPhase.LEFT)
    if has_handed_over and not standing.is_ending:
        return timedelta(0)
    is_patient = standing.is_leaving and not has_handed_over
    seconds = policy.ready_deadline_seconds if is_patient else policy.leave_deadline_seconds
    return timedelta(seconds=seconds)


def deletion(standing: Standing, *, reason: str, grace_seconds: int | None = None) -> DeletePod:
    """The order to delete exactly this pod."""
    return DeletePod(
        name=standing.pod.name,
        uid=standing.pod.uid,
        reason=reason,
        grace_seconds=grace_seconds,
    )


def _ending(standing: Standing) -> str:
    if standing.pod.exit_code is not None:
        return f"ended with code {standing.pod.exit_code}"
    if standing.pod.ended or standing.report is None:
        return f"phase {standing.pod.phase.value}"
    return f"reports {standing.report.phase.value}"
