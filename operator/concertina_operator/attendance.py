"""Decides who of the present round is here, leaves, or is lost, and who could join.

Called by plan.py; rounds.py turns the answer into the next membership. Pure: no I/O, no clock.
A member is lost when its pod is gone or has ended, or when its workers were started anew (another
incarnation): their shards are gone. Silence alone is judged in arbitration.py.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from concertina_api.v1alpha1 import Member, Membership, PodPhase
from concertina_operator.acceptance import Standing
from concertina_operator.observed import PodFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A pod of the round that is gone with its shards, and why."""

    member: Member
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attendance:
    """The present round against what is really there."""

    committed: bool
    """The round's leader has acknowledged it; without a round nothing is open either."""
    here: tuple[Member, ...] = ()
    """Members that stay, in rank order, at the addresses that they report now."""
    leavers: tuple[Member, ...] = ()
    """Members that were told to end, or are about to be, and are not listed as leaving yet."""
    notices: tuple[str, ...] = ()
    """Who says of which leavers that they are about to be told, in words."""
    handing_over: tuple[Member, ...] = ()
    """Listed as leaving in a round that is not committed, alive, and not done yet."""
    lost: tuple[Lost, ...] = ()
    newcomers: tuple[Member, ...] = ()
    """Warm pods that no round names, in the order in which they would join."""

    @property
    def alive(self) -> tuple[Member, ...]:
        """Everyone who holds state, or may."""
        return (*self.here, *self.leavers, *self.handing_over)


def attendance(
    membership: Membership | None, standings: Iterable[Standing], *, committed_round: int
) -> Attendance:
    """Who is here. `committed_round` is the newest round known to be acknowledged before."""
    present = tuple(standings)
    if membership is None:
        return Attendance(committed=True, newcomers=_newcomers(present, named=()))
    by_uid = {standing.pod.uid: standing for standing in present}
    here, leavers, notices, handing_over, lost = [], [], [], [], []
    for member in membership.members:
        standing = by_uid.get(member.uid)
        reason = _loss(member, standing)
        if reason is not None or standing is None:
            lost.append(Lost(member=member, reason=reason or "its pod is gone"))
        elif standing.is_leaving:
            leavers.append(_refreshed(member, standing))
            notices += [f"{member.pod}: {standing.notice}"] if standing.notice else []
        else:
            here.append(_refreshed(member, standing))
    for member in membership.leaving:
        standing = by_uid.get(member.uid)
        if _has_handed_over(member, standing):
            continue
        reason = _loss(member, standing)
        if reason is None and standing is not None:
            handing_over.append(_refreshed(member, standing))
        else:
            lost.append(Lost(member=member, reason=reason or "its pod is gone"))
    committed = not handing_over
    if membership.members:
        committed = _is_committed(membership, by_uid, committed_round)
    if committed or not membership.members:  # what was handed over cannot be lost any more
        leaving = {member.key for member in membership.leaving}
        lost = [entry for entry in lost if entry.member.key not in leaving]
    named = (*membership.members, *membership.leaving, *membership.lost)
    return Attendance(
        committed=committed,
        here=tuple(here),
        leavers=tuple(leavers),
        notices=tuple(notices),
        handing_over=() if committed else tuple(handing_over),
        lost=tuple(lost),
        newcomers=_newcomers(present, named=named),
    )


def _loss(member: Member, standing: Standing | None) -> str | None:
    """Why the shards of a member are gone, or None."""
    if standing is None:
        return "its pod is gone"
    pod, report = standing.pod, standing.report
    if pod.exit_code is not None:
        return f"its trainer ended with code {pod.exit_code}{_why(pod)}"
    if pod.ended:
        return f"its pod is {pod.phase.value}{_why(pod)}"
    if report is None:
        return None  # a report can vanish, and its agent writes it again
    if report.incarnation != member.incarnation:
        return f"its workers were started anew (incarnation {report.incarnation})"
    if report.phase in (PodPhase.FAILED, PodPhase.LEFT, PodPhase.FINISHED):
        return f"it reports that it has {report.phase.value.lower()}"
    return None


def _why(pod: PodFacts) -> str:
    return f" ({pod.ending})" if pod.ending else ""


def _has_handed_over(member: Member, standing: Standing | None) -> bool:
    """A leaver ends with 0 only after its shards have arrived or its checkpoint is saved."""
    if standing is None:
        return False
    mine = standing.report is not None and standing.report.incarnation == member.incarnation
    done = standing.has_phase(PodPhase.LEFT, PodPhase.FINISHED)
    return (mine and done) or standing.pod.exit_code == 0


def _is_committed(
    membership: Membership, by_uid: Mapping[str, Standing], committed_round: int
) -> bool:
    if committed_round >= membership.round:
        return True
    standings = (by_uid.get(member.uid) for member in membership.members)
    reports = (standing.report for standing in standings if standing is not None)
    return any(
        (report.acknowledged is not None and report.acknowledged.round >= membership.round)
        or (report.progress is not None and report.progress.round >= membership.round)
        for report in reports
        if report is not None
    )


def _refreshed(member: Member, standing: Standing) -> Member:
    """The member at the store that its agent serves now, a store serves one round; its last grace."""
    report, grace = standing.report, standing.pod.grace_seconds
    if report is None or report.port is None:
        return member.model_copy(update={"grace_seconds": grace})
    return member.model_copy(
        update={"host": report.host, "port": report.port, "grace_seconds": grace}
    )


def _newcomers(standings: Iterable[Standing], *, named: Iterable[Member]) -> tuple[Member, ...]:
    """Warm pods that are not named; those that hold state first, then the oldest."""
    keys = {member.key for member in named}
    warm = [standing for standing in standings if standing.is_warm and standing.is_compatible]
    warm.sort(key=_seniority)
    members = (standing.as_member() for standing in warm)
    return tuple(member for member in members if member.key not in keys)


def _seniority(standing: Standing) -> tuple[bool, str, int, str]:
    fresh = not standing.has_phase(PodPhase.TRAINING, PodPhase.WAITING)
    name = standing.pod.name
    return fresh, standing.pod.created.isoformat(), len(name), name
