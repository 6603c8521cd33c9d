"""Decides how far a job is from its end. Called by plan.py.

Pure: no I/O, no clock. Completed: a leader reports that the run is finished and every other
member of the last round has ended; without such a report, all members ended with 0.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from concertina_api.v1alpha1 import (
    Member,
    Membership,
    PodPhase,
)
from concertina_operator.acceptance import Standing


class Ending(StrEnum):
    """How far a job is from its end."""

    RUNNING = "Running"
    AWAITED = "Awaited"
    """A member says that the run is finished; the leader, who made it durable, has yet to."""
    FINISHING = "Finishing"
    """All samples are consumed; members are still exiting."""
    COMPLETED = "Completed"


def ending(membership: Membership | None, standings: Iterable[Standing]) -> Ending:
    """Whether the members of the last round are done."""
    if membership is None:
        return Ending.RUNNING
    by_uid = {standing.pod.uid: standing for standing in standings}
    last = membership.members or membership.leaving
    found = [by_uid[member.uid] for member in last if member.uid in by_uid]
    leader = by_uid.get(last[0].uid) if last else None
    finished = _has_finished(leader)
    # Who is finished knows that the last checkpoint is durable: nobody else can spoil it.
    if not finished and any(_has_failed(standing) for standing in found):
        return Ending.RUNNING
    if finished and all(_is_done(standing) for standing in found):
        return Ending.COMPLETED
    if finished:
        return Ending.FINISHING
    if leader is not None and _will_tell(leader) and _is_told(membership, by_uid):
        return Ending.AWAITED
    if not membership.members or len(found) < len(last):
        return Ending.RUNNING
    return Ending.COMPLETED if all(map(_is_silent_success, found)) else Ending.RUNNING


def _has_finished(leader: Standing | None) -> bool:
    if leader is None or leader.report is None or _has_failed(leader):
        return False
    return leader.report.finished


def _will_tell(leader: Standing) -> bool:
    """Whether the leader is in its round: it will say that the run is finished, or that it broke."""
    return leader.is_alive and not leader.is_ending and leader.has_phase(PodPhase.TRAINING)


def _is_told(membership: Membership, by_uid: Mapping[str, Standing]) -> bool:
    """Whether a member of the round says that the run is finished, or has ended as if it were."""
    members = ((member, by_uid.get(member.uid)) for member in membership.members)
    return any(
        standing is not None and (_says_so(standing, member) or _is_silent_success(standing))
        for member, standing in members
    )


def _says_so(standing: Standing, member: Member) -> bool:
    report = standing.report
    return report is not None and report.finished and report.incarnation == member.incarnation


def _is_silent_success(standing: Standing) -> bool:
    """Whether the pod has ended well; its report may be read later than that, or there is none."""
    return (
        standing.pod.exit_code == 0
        and not standing.is_leaving
        and not standing.has_phase(PodPhase.LEFT)
    )


def _has_failed(standing: Standing) -> bool:
    if standing.is_leaving:
        return False
    return bool(standing.pod.exit_code) or standing.has_phase(PodPhase.FAILED)


def _is_done(standing: Standing) -> bool:
    """Whether the pod has ended, or has nothing left to do and was told to end."""
    if standing.pod.ended or standing.has_phase(PodPhase.LEFT) or _has_failed(standing):
        return True
    is_finished = standing.report is not None and standing.report.finished
    return is_finished and standing.pod.deleting
