"""Counts the failures of a job, and finds what caused them. Called by situation.py and offences.py.

Pure: no I/O, no clock. A failure of the user's code is counted once per round, whoever it was that
fell over first; failures that nobody's code has caused are counted apart. What was not seen (a pod
that is gone, a node that died) is not counted, and a pod that leaves may exit with any code. A pod
that ends before any round has named it is a failure too, so that the next one is not created at
once; it counts when its own containers failed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import (
    Failure,
    FailureCause,
    FailureCount,
    Member,
    Membership,
    PodPhase,
    SuspectSamples,
)
from concertina_operator.acceptance import Standing
from concertina_operator.observed import PodFacts
from concertina_operator.suspects import poison, suspected

GOOD_STEPS = 1000
"""Steps without a failure after which the count starts anew."""
REMEMBERED = 256
"""Rounds, and incarnations of pods that are gone, that the count remembers."""
_NOBODYS_FAULT = frozenset(
    {FailureCause.INFRASTRUCTURE, FailureCause.ROUND_TIMEOUT, FailureCause.NOT_STARTED}
)
"""Causes that do not count against backoffLimit; each failure of theirs is counted apart."""
_FROM_OUTSIDE = frozenset({1, 2, 3, 7, 9, 15})
"""Signals that others send, and SIGBUS, a page that could not be read (trainer's causes.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFailure:
    """A failure that has not been seen before."""

    pod: str
    key: str
    """uid.incarnation, so that a restarted pod can fail again."""
    failure: Failure

    @property
    def is_nobodys_fault(self) -> bool:
        """Whether no code of the user's has caused it."""
        return self.failure.cause in _NOBODYS_FAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureNews:
    """The count after this observation, and what it found."""

    count: FailureCount
    found: tuple[FoundFailure, ...] = ()
    counted: FoundFailure | None = None
    """The cause, when the count has risen."""
    permanent: FoundFailure | None = None
    """A failure that trying again cannot help."""

    @property
    def poison(self) -> SuspectSamples | None:
        """Samples that are to blame for the failures."""
        return poison(self.count.samples)


def failures(
    before: FailureCount,
    *,
    membership: Membership | None,
    standings: Iterable[Standing],
    step: int,
    not_before: datetime | None,
    now: datetime,
) -> FailureNews:
    """The failure count after what is seen now.

    `step` is the newest step of the run. Pods that fail before they are in any round count only
    while nobody trains, and once per attempt (an attempt ends at `not_before`).
    """
    present = tuple(standings)
    start = _forgiving(_renewed(before, step=step), present, membership)
    found = tuple(_found(present, membership, seen=start.uids))
    if not found:
        return FailureNews(count=start)
    ordered = sorted(found, key=_precedence)
    permanent = next((entry for entry in ordered if entry.failure.permanent), None)
    trains = _anyone_trains(membership, present)
    is_new_attempt = not trains and (not_before is None or now >= not_before)
    counted = next(
        (
            entry
            for entry in ordered
            if not entry.is_nobodys_fault
            and (entry.failure.round not in start.rounds if entry.failure.round else is_new_attempt)
        ),
        None,
    )
    count = start.model_copy(
        update={
            "infrastructure": start.infrastructure + sum(one.is_nobodys_fault for one in found),
            "uids": _remembered((*start.uids, *(entry.key for entry in found)), present),
            **(_counting(start, counted, step=step) if counted else {}),
        }
    )
    return FailureNews(count=count, found=found, counted=counted, permanent=permanent)


def is_broken_by_infrastructure(standing: Standing) -> bool:
    """Whether the pod's trainer failed by itself, and for nothing that its code has done."""
    if not standing.pod.exit_code or standing.is_ending:
        return False
    failure = _failure_of(standing, None, None)
    return failure is not None and failure.cause is FailureCause.INFRASTRUCTURE


def described(found: FoundFailure) -> str:
    """One sentence: who failed, where, and why."""
    failure = found.failure
    where = f" as rank {failure.rank} of round {failure.round}" if failure.rank >= 0 else ""
    detail = f": {failure.message}" if failure.message else ""
    return f"{found.pod} failed{where} ({failure.cause.value}){detail}"[:512]


def _counting(start: FailureCount, counted: FoundFailure, *, step: int) -> dict[str, Any]:
    """What one more failure that counts changes."""
    failure = counted.failure
    return {
        "count": start.count + 1,
        "total": start.total + 1,
        "rounds": tuple(sorted({*start.rounds, failure.round} - {0}))[-REMEMBERED:],
        "good_step": step,
        "message": described(counted),
        "traceback": failure.traceback,
        "samples": suspected(start.samples, failure, step=step),
    }


def _remembered(keys: tuple[str, ...], present: Iterable[Standing]) -> tuple[str, ...]:
    """The newest keys, and all of the pods that are there, which would be found again."""
    uids = {standing.pod.uid for standing in present}
    newest = len(keys) - REMEMBERED
    return tuple(
        key for number, key in enumerate(keys) if number >= newest or key.rpartition(".")[0] in uids
    )


def _renewed(before: FailureCount, *, step: int) -> FailureCount:
    if before.count and step - before.good_step >= GOOD_STEPS:
        forgotten = {"count": 0, "good_step": step, "message": "", "traceback": "", "samples": ()}
        return before.model_copy(update=forgotten)
    return before


def _forgiving(
    before: FailureCount, standings: tuple[Standing, ...], membership: Membership | None
) -> FailureCount:
    """The count that knows the failures of who leaves: they are none after it has left, either."""
    leaving = {member.uid for member in membership.leaving} if membership else set()
    keys = (
        _key(standing, failure)
        for standing in standings
        if standing.pod.uid in leaving and (failure := _failure_of(standing, None, membership))
    )
    if not (new := tuple(key for key in keys if key not in before.uids)):
        return before
    return before.model_copy(update={"uids": _remembered((*before.uids, *new), standings)})


def _found(
    standings: Iterable[Standing], membership: Membership | None, *, seen: tuple[str, ...]
) -> Iterable[FoundFailure]:
    by_uid = _members_by_uid(membership)
    leaving = {member.uid for member in membership.leaving} if membership else set()
    for standing in standings:
        if standing.is_leaving or standing.pod.uid in leaving:
            continue
        failure = _failure_of(standing, by_uid.get(standing.pod.uid), membership)
        if failure is None:
            continue
        key = _key(standing, failure)
        if key not in seen:
            yield FoundFailure(pod=standing.pod.name, key=key, failure=failure)


def _key(standing: Standing, failure: Failure) -> str:
    """Names a failure, so that it counts once."""
    return f"{standing.pod.uid}.{failure.incarnation}"[:64]


def _failure_of(
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
        incarnation=report.incarnation if report else "unreported",
        cause=FailureCause.EXIT_CODE if pod.setup_failed else FailureCause.NOT_STARTED,
        message=(pod.ending or f"{end} before it was in a round")[:512],
    )


def _bad_exit(
    standing: Standing, code: int, member: Member | None, membership: Membership | None
) -> Failure:
    incarnation = standing.incarnation or "unreported"
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


def _precedence(found: FoundFailure) -> tuple[bool, bool, bool, int, str]:
    """The first failing rank is the cause; those that lost their peer come after."""
    failure = found.failure
    return (
        not failure.permanent,
        found.is_nobodys_fault,
        failure.rank < 0,
        failure.rank,
        found.pod,
    )


def _anyone_trains(membership: Membership | None, standings: Iterable[Standing]) -> bool:
    by_uid = _members_by_uid(membership)
    return any(
        standing.is_alive
        and standing.pod.uid in by_uid
        and (
            standing.report is None
            or standing.report.incarnation == by_uid[standing.pod.uid].incarnation
        )
        for standing in standings
    )


def _members_by_uid(membership: Membership | None) -> Mapping[str, Member]:
    return {member.uid: member for member in membership.members} if membership else {}
