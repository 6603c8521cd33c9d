"""Decides whom to believe when a round is broken and nobody is known to be dead.

Called by plan.py. Pure: no I/O, no clock. The operator alone arbitrates: it writes a probe number
into the membership; who does not echo it in time while an accuser does is lost. If all echo but
some still cannot reach each other at the end of that time, a mutually connected set stays: who was
merely slow is reached by then. A round that nobody acknowledges is probed as well, later each time,
so that a slow one is not broken off again and again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from concertina_api.v1alpha1 import Member, Membership, PodPhase, Report
from concertina_operator.acceptance import Standing
from concertina_operator.attendance import Lost

FIRST_COMMIT_LIMIT = timedelta(seconds=30)
"""Time that a round has to be acknowledged; doubled with every round that is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do about a suspicion."""

    opens_probe: bool = False
    renews: bool = False
    """A new round is needed, of those who are not lost."""
    lost: tuple[Lost, ...] = ()
    requeue_after: timedelta | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """Who says that the round is broken, and whom they could not reach."""

    accusers: frozenset[str]
    """Pods that say so; none when the round is merely overdue."""
    edges: frozenset[tuple[str, str]]
    """(accuser, accused), both pods of the round."""
    reason: str


def arbitrate(
    membership: Membership,
    standings: Iterable[Standing],
    *,
    committed: bool,
    overdue: bool,
    probe_at: datetime | None,
    confirm: timedelta,
    patience: timedelta,
    now: datetime,
) -> Verdict | None:
    """The verdict on a round with members, or None when nobody doubts it.

    Who is silent for `confirm` is lost if an accuser is not; if all are, only after `patience`.
    Who echoes, but is still accused after `confirm` by one who echoes too, may be cut off.

    Once it is `committed`, those who left it have no part in it any more.
    `probe_at` is when the membership's probe was published, None when no probe is open.
    """
    named = membership.members if committed else (*membership.members, *membership.leaving)
    participants = {member.pod: member for member in named}
    reports = _reports(participants, standings)
    suspicion = _suspicion(membership, participants, reports, overdue=overdue)
    if suspicion is None:
        return None
    if probe_at is None:
        return Verdict(opens_probe=True, requeue_after=confirm, reason=suspicion.reason)
    echoed = {pod for pod, report in reports.items() if report.probe >= membership.probe}
    heard = bool(echoed & (suspicion.accusers or echoed))
    told = [edge for edge in suspicion.edges if edge[0] in echoed]
    silent = _accused(suspicion, participants) - echoed
    if not heard and not silent:
        silent = set(suspicion.accusers - echoed)
    waited = confirm if heard else patience
    left = probe_at + waited - now
    if (silent or told) and left > timedelta(0):
        manner = "probing" if heard else "nobody has answered yet"
        return Verdict(requeue_after=left, reason=f"{suspicion.reason}; {manner}")
    if silent:
        reason = f"it did not answer probe {membership.probe} in {waited.total_seconds():g} s"
        lost = [Lost(member=participants[pod], reason=reason) for pod in sorted(silent)]
        return Verdict(renews=True, lost=tuple(lost), reason=suspicion.reason)
    ranks = {pod: rank for rank, pod in enumerate(participants)}
    cut = disconnected(ranks, told)
    lost = [
        Lost(member=participants[pod], reason="the larger part of the round cannot reach it")
        for pod in cut
    ]
    return Verdict(renews=True, lost=tuple(lost), reason=suspicion.reason)


def disconnected(ranks: Mapping[str, int], edges: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Pods to exclude so that no two that remain accuse each other, in the order of exclusion.

    Greedy: the pod in most accusations goes first, of equals the one of the highest rank. For a
    partition this leaves the larger part, of equal parts the one with rank 0.
    """
    open_edges = {frozenset(edge) for edge in edges if edge[0] != edge[1]}
    cut: list[str] = []
    while open_edges:
        degree = dict.fromkeys(ranks, 0)
        for edge in open_edges:
            for pod in edge:
                degree[pod] += 1
        worst = max(ranks, key=lambda pod: (degree[pod], ranks[pod]))
        cut.append(worst)
        open_edges = {edge for edge in open_edges if worst not in edge}
    return tuple(cut)


def commit_limit(*, round_number: int, committed_round: int, longest: timedelta) -> timedelta:
    """Time that a round has to be acknowledged, given how many before it were not."""
    limit = FIRST_COMMIT_LIMIT
    for _ in range(round_number - committed_round - 1):
        if limit >= longest:
            break
        limit *= 2
    return max(min(limit, longest), FIRST_COMMIT_LIMIT)


def _accused(suspicion: Suspicion, participants: Iterable[str]) -> set[str]:
    """Who could not be reached; anybody in the round, as long as nobody says who."""
    if suspicion.accusers and suspicion.edges:
        return {accused for _, accused in suspicion.edges}
    return set(participants)


def _reports(
    participants: Mapping[str, Member], standings: Iterable[Standing]
) -> dict[str, Report]:
    return {
        standing.pod.name: standing.report
        for standing in standings
        if standing.report is not None
        and standing.pod.name in participants
        and standing.pod.uid == participants[standing.pod.name].uid
    }


def _suspicion(
    membership: Membership,
    pods: Mapping[str, Member],
    reports: Mapping[str, Report],
    *,
    overdue: bool,
) -> Suspicion | None:
    """Complaints count from pods that are in the newest round; of older rounds only when overdue."""
    heard = {
        pod: report
        for pod, report in reports.items()
        if overdue or report.round == membership.round
    }
    edges = {
        (pod, suspect)
        for pod, report in heard.items()
        for suspect in report.suspects
        if suspect in pods and suspect != pod
    }
    accusers = {pod for pod, report in heard.items() if report.phase is PodPhase.WAITING}
    accusers |= {accuser for accuser, _ in edges}
    if overdue:
        reason = f"round {membership.round} was not acknowledged in time"
        return Suspicion(accusers=frozenset(), edges=frozenset(edges), reason=reason)
    if not accusers:
        return None
    names = ", ".join(sorted({accused for _, accused in edges}))
    reason = f"round {membership.round} is broken, says {', '.join(sorted(accusers))}"
    if names:
        reason += f", who cannot reach {names}"
    return Suspicion(accusers=frozenset(accusers), edges=frozenset(edges), reason=reason)
