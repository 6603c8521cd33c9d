"""Decides how far a job is from its end. Called by plan.py.

Pure: no I/O, no clock. Completed: a worker's pod reports that the run is finished, which it does
when the last checkpoint is durable, and every other member of the last round has ended. The exit
codes of pods alone say nothing: who leaves ends with 0, too.
"""

from collections.abc import Iterable
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
    FINISHING = "Finishing"
    """All samples are consumed, and all is saved; members are still exiting."""
    COMPLETED = "Completed"


def ending(membership: Membership | None, standings: Iterable[Standing]) -> Ending:
    """Whether the members of the last round are done."""
    if membership is None:
        return Ending.RUNNING
    by_uid = {standing.pod.uid: standing for standing in standings}
    last = membership.members or membership.leaving
    # The leader's program may go on after the training, and its failure then is the job's.
    if last and _has_failed_since(by_uid.get(last[0].uid), last[0]):
        return Ending.RUNNING
    named = (*membership.members, *membership.leaving)
    if not any(_says_so(by_uid.get(member.uid), member) for member in named):
        return Ending.RUNNING
    found = (by_uid[member.uid] for member in last if member.uid in by_uid)
    return Ending.COMPLETED if all(map(_is_done, found)) else Ending.FINISHING


def _says_so(standing: Standing | None, member: Member) -> bool:
    """Whether a pod says that the run is finished; it was in the round as what it is now."""
    return (
        standing is not None
        and standing.report is not None
        and standing.report.finished
        and standing.report.incarnation == member.incarnation
        and not _has_failed(standing)
    )


def _has_failed_since(standing: Standing | None, member: Member) -> bool:
    """Whether a member has failed, or its workers were started anew because they had."""
    if standing is None:
        return False
    report = standing.report
    is_anew = report is not None and report.incarnation != member.incarnation
    return _has_failed(standing) or (is_anew and not standing.is_leaving)


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
