"""Counts the failures of a job. Called by situation.py; what failed a pod is found in causes.py.

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

from concertina_api.v1alpha1 import (
    Failure,
    FailureCause,
    FailureCount,
    Member,
    Membership,
    SuspectSamples,
)
from concertina_operator.acceptance import Standing
from concertina_operator.causes import UNREPORTED, failure_of
from concertina_operator.suspects import poison, suspected

GOOD_STEPS = 1000
"""Steps without a failure after which the count starts anew."""
REMEMBERED = 256
"""Rounds, and incarnations of pods that are gone, that the count remembers."""
_NOBODYS_FAULT = frozenset({FailureCause.INFRASTRUCTURE, FailureCause.NOT_STARTED})
"""Causes that do not count against backoffLimit; each failure of theirs is counted apart."""


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
        if standing.pod.uid in leaving and (failure := failure_of(standing, None, membership))
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
        failure = failure_of(standing, by_uid.get(standing.pod.uid), membership)
        if failure is None:
            continue
        key = _key(standing, failure)
        if key not in seen and not _has_lost_its_report(standing, failure, seen=seen):
            yield FoundFailure(pod=standing.pod.name, key=key, failure=failure)


def _has_lost_its_report(standing: Standing, failure: Failure, *, seen: tuple[str, ...]) -> bool:
    """Whether this is the end of a pod that has failed before, and only its report is gone since."""
    is_known = any(key.startswith(f"{standing.pod.uid}.") for key in seen)
    return is_known and failure.incarnation == UNREPORTED


def _key(standing: Standing, failure: Failure) -> str:
    """Names a failure, so that it counts once."""
    return f"{standing.pod.uid}.{failure.incarnation}"[:64]


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
