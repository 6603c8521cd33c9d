"""Finds what made a pod fail: its own word, else its exit code, else how its containers ended.

Called by failures.py, which counts, and offences.py, which holds failures against nodes. Pure: no
I/O, no clock.
"""

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import Failure, FailureCause, Member, Membership, PodPhase
from concertina_operator.acceptance import Standing
from concertina_operator.observed import PodFacts

UNREPORTED = "unreported"
"""In place of an incarnation: there is no report of the pod that ended."""
_FROM_OUTSIDE = frozenset({1, 2, 3, 7, 9, 15})
"""Signals that others send, and SIGBUS, a page that could not be read (trainer's causes.py)."""


def failure_of(
    standing: Standing, member: Member | None, membership: Membership | None
) -> Failure | None:
    """What the pod reports, else what its exit code or its end says."""
    report, pod = standing.report, standing.pod
    told = report.failure if report is not None else None
    # What workers told that were started anew since does not explain an end of the pod after that.
    is_old = told is not None and pod.ended and told.incarnation != standing.incarnation
    if told is not None and not is_old:
        return told
    if pod.exit_code and not pod.disrupted:
        return _bad_exit(standing, pod.exit_code, member, membership)
    if not pod.ended or not _is_new(standing, membership):
        return None
    end = "it ended" if pod.exit_code is None else f"it ended with code {pod.exit_code}"
    return Failure(
        round=0,
        incarnation=report.incarnation if report else UNREPORTED,
        cause=FailureCause.EXIT_CODE if pod.setup_failed else FailureCause.NOT_STARTED,
        message=(pod.ending or f"{end} before it was in a round")[:512],
    )


def is_broken_by_infrastructure(standing: Standing) -> bool:
    """Whether the pod's trainer failed by itself, and for nothing that its code has done."""
    if not standing.pod.exit_code or standing.is_ending:
        return False
    failure = failure_of(standing, None, None)
    return failure is not None and failure.cause is FailureCause.INFRASTRUCTURE


def _bad_exit(
    standing: Standing, code: int, member: Member | None, membership: Membership | None
) -> Failure:
    incarnation = standing.incarnation or UNREPORTED
    told = f"exit code {code}"
    return Failure(
        round=membership.round if membership and member else 0,
        incarnation=member.incarnation if member else incarnation,
        cause=_cause_of(standing.pod, code),
        message=(f"{told}: {standing.pod.ending}" if standing.pod.ending else told)[:512],
        permanent=code == InvalidJob.exit_code,
    )


def _cause_of(pod: PodFacts, code: int) -> FailureCause:
    """What the end of a trainer container says that has told nothing itself."""
    if pod.out_of_memory:
        return FailureCause.OUT_OF_MEMORY
    if code == InvalidJob.exit_code:
        return FailureCause.INVALID_JOB
    number = -code if code < 0 else code - 128
    if number in _FROM_OUTSIDE:
        return FailureCause.INFRASTRUCTURE
    return FailureCause.SIGNAL if number > 0 else FailureCause.EXIT_CODE


def _is_new(standing: Standing, membership: Membership | None) -> bool:
    """Whether no round has named the pod, as far as is known."""
    listed = (*membership.members, *membership.leaving, *membership.lost) if membership else ()
    was_in_a_round = standing.report is not None and standing.report.round > 0
    is_over = standing.has_phase(PodPhase.LEFT, PodPhase.FINISHED)
    return not (was_in_a_round or is_over or standing.pod.uid in {one.uid for one in listed})
