"""The course of a job that trains, or is on its way to. Called by plan.py.

Pure: no I/O, no clock. It brings together the arbitration of a broken round, the next round, the
pods around it, and the back-off after failures.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from concertina_api.v1alpha1 import FailureCause, Intent, Membership, RetryStatus
from concertina_operator.account import events_of, holds_back, pods_ready, ready, state_of
from concertina_operator.actions import Event, EventType
from concertina_operator.arbitration import Verdict, arbitrate, commit_limit
from concertina_operator.backoff import AFTER_FAILURE, after_giving_back, backoff
from concertina_operator.course import Course, in_force
from concertina_operator.departures import InForce
from concertina_operator.failures import described
from concertina_operator.ledger import newest_progress, reports_of
from concertina_operator.nodes import (
    allowance_events,
    avoidance_events,
    is_cornered,
    nodes_to_avoid,
)
from concertina_operator.offences import offences
from concertina_operator.pods import PodChanges, pod_changes
from concertina_operator.rounds import NextRound, RoundReason, held, next_round, probed, reopened
from concertina_operator.situation import Situation
from concertina_operator.sizing import smallest_size


def running(situation: Situation) -> Course:
    """Train with what is there, and get or give back pods until it is what is wanted."""
    wanted = situation.size.wanted
    waiting_since = situation.before.waiting_since or situation.now
    verdict = _verdict(situation)
    retry = _retry_after_failures(situation)
    following = _next_round(situation, verdict, retry, waiting_for=situation.now - waiting_since)
    force = in_force(situation, following)
    trains = bool(force.members)
    says_run = force.membership is None or force.membership.intent is Intent.RUN
    blamed = offences(
        situation.before.offences,
        situation.standings,
        excluded=_excluded(verdict),
        now=situation.now,
    )
    changes = pod_changes(
        situation.name,
        situation.standings,
        in_force=force,
        policy=situation.spec.scaling,
        wanted=wanted if says_run else 0,
        ceiling=0 if situation.template_fault else situation.ceiling,
        waiting_since=None if trains else waiting_since,
        not_before=retry.not_before,
        now=situation.now,
        avoid=nodes_to_avoid(situation, blamed, in_force=force),
    )
    cornered = is_cornered(situation, in_force=force, given_back=changes.given_back)
    retry = _retry_after_pods(situation, retry, changes, force)
    below_since = (
        (situation.before.below_min_since or situation.now) if is_below_min(situation) else None
    )
    waits = [moment - situation.now for moment in _deadlines(situation, below_since)]
    if not trains:
        waits.append(waiting_since + situation.ready_deadline - situation.now)
    waits += [_commit_left(situation, force) or timedelta(0)]
    waits += [verdict.requeue_after] if verdict is not None and verdict.requeue_after else []
    return Course(
        state=state_of(situation, force, verdict, retry),
        message=following.message,
        next=following,
        pods=changes,
        wanted=wanted,
        intends={
            "retry": retry,
            "waiting_since": None if trains else waiting_since,
            "below_min_since": below_since,
            "offences": () if cornered else blamed,
            **_probe(situation, verdict),
        },
        claims=(
            ready(force, verdict, following),
            pods_ready(situation, force, changes, retry),
        ),
        events=(
            *avoidance_events(situation, blamed),
            *(allowance_events(situation) if cornered else ()),
            *events_of(situation, changes),
        ),
        waits=tuple(waits),
    )


def left_alone(situation: Situation, *, advice: str) -> Course:
    """The course of a job whose plan is only recommended: everything stays as it is."""
    present = situation.membership
    number = len(present.members) if present is not None else 0
    message = f"{number} pods are members; mode Recommend changes nothing"
    following = NextRound(membership=present, reason=RoundReason.STEADY, message=message)
    force = in_force(situation, following)
    retry = situation.before.retry
    return Course(
        state="Recommend",
        message=message,
        next=following,
        wanted=number,
        # A failure that nobody acts on now is news for the plan that may.
        intends={"failures": situation.before.failures},
        claims=(
            ready(force, None, following),
            pods_ready(situation, force, PodChanges(), retry),
        ),
        events=(Event(type=EventType.NORMAL, reason="Recommended", message=advice),)
        if advice
        else (),
    )


def is_below_min(situation: Situation) -> bool:
    """Whether fewer pods are warm than the smallest size; a back-off does not begin the wait.

    Without a template, a job that holds no pods has none to give back either.
    """
    if situation.template_fault and not any(entry.is_alive for entry in situation.standings):
        return False
    warm = len(situation.there.here) + len(situation.there.newcomers)
    has_begun = situation.before.below_min_since is not None
    return warm < smallest_size(situation.spec.pods) and (has_begun or not situation.is_backing_off)


def is_below_min_for_too_long(situation: Situation) -> bool:
    """Whether the pods have had their time to become warm, back-off apart."""
    since = situation.before.below_min_since
    if since is None or not is_below_min(situation):
        return False
    return situation.now >= max(_deadlines(situation, since))


def _deadlines(situation: Situation, below_since: datetime | None) -> list[datetime]:
    """When a job below min gives its pods back."""
    if below_since is None:
        return []
    not_before = situation.not_before or below_since
    return [max(below_since, not_before) + situation.ready_deadline]


def _commit_left(situation: Situation, force: InForce) -> timedelta | None:
    """Time until the round should be acknowledged; None when it is, or has no members."""
    if force.membership is None or not force.members or force.committed:
        return None
    limit = commit_limit(
        round_number=force.membership.round,
        committed_round=situation.status.committed_round,
        longest=situation.ready_deadline,
    )
    return (force.since or situation.now) + limit - situation.now


def _verdict(situation: Situation) -> Verdict | None:
    """What arbitration says; it is not asked while somebody is known to be lost or to leave."""
    membership, there = situation.membership, situation.there
    if membership is None or not membership.members or there.lost or there.leavers:
        return None
    present = InForce(
        membership=membership, committed=there.committed, since=situation.before.round_at
    )
    left = _commit_left(situation, present)
    return arbitrate(
        membership,
        situation.standings,
        committed=there.committed,
        overdue=left is not None and left <= timedelta(0),
        probe_at=_asked_at(situation, membership),
        confirm=timedelta(seconds=situation.spec.scaling.loss_confirm_seconds),
        patience=situation.ready_deadline,
        now=situation.now,
    )


def _next_round(
    situation: Situation,
    verdict: Verdict | None,
    retry: RetryStatus,
    *,
    waiting_for: timedelta,
) -> NextRound:
    following = reopened(situation.membership, situation.there, number=situation.number)
    if following is not None:
        return following
    if verdict is not None and not verdict.renews:
        assert situation.membership is not None
        if not verdict.opens_probe:
            return held(situation.membership, message=verdict.reason)
        probe = _next_probe(situation, situation.membership)
        return probed(situation.membership, probe=probe, message=verdict.reason)
    more_may_come = not holds_back(retry, now=situation.now) or any(
        entry.is_alive and not entry.is_leaving and not entry.is_warm
        for entry in situation.standings
    )
    there = situation.there
    if there.here and _is_trained(situation):
        # Who joins now would only have the others begin the last checkpoint anew.
        there = replace(there, newcomers=())
    return next_round(
        situation.membership,
        there,
        pods=situation.spec.pods,
        wanted=situation.size.wanted,
        number=situation.number,
        arbitrated=verdict.lost if verdict is not None and verdict.renews else None,
        may_wait=more_may_come and waiting_for < situation.ready_deadline,
    )


def _is_trained(situation: Situation) -> bool:
    """Whether no step follows, by the word of those who train, or by the samples of the job."""
    progress = newest_progress(reports_of(situation.standings))
    total = situation.spec.samples
    is_consumed = total is not None and situation.status.progress.samples >= total
    return is_consumed or (progress is not None and progress.trained)


def _excluded(verdict: Verdict | None) -> frozenset[str]:
    """uids of the pods that arbitration takes out of the round now."""
    lost = verdict.lost if verdict is not None and verdict.renews else ()
    return frozenset(entry.member.uid for entry in lost)


def _asked_at(situation: Situation, membership: Membership) -> datetime | None:
    """When the open probe was published; the status alone only tells that it was meant to be."""
    before = situation.before
    return before.probe_at if before.probe == membership.probe else None


def _probe(situation: Situation, verdict: Verdict | None) -> Mapping[str, Any]:
    """What the status is to say about the probe."""
    if verdict is None or verdict.renews:
        return {"probe_at": None}
    if not verdict.opens_probe:
        return {}
    assert situation.membership is not None
    probe = _next_probe(situation, situation.membership)
    return {"probe_at": situation.now, "probe": probe}


def _next_probe(situation: Situation, membership: Membership) -> int:
    """A number that nobody has echoed yet, also after a membership was deleted."""
    return 1 + max(membership.probe, situation.before.probe)


def _retry_after_failures(situation: Situation) -> RetryStatus:
    """The back-off after what failed now; one for all pods of an attempt.

    What nobody's code has caused holds back new pods, too, or a bad node would get pod after pod;
    that wait begins anew once all wanted pods train.
    """
    before, news = situation.before.retry, situation.news
    wears_out = any(
        not entry.failure.round or entry.failure.cause is FailureCause.INFRASTRUCTURE
        for entry in news.found
    )
    if news.counted is None and (situation.is_backing_off or not wears_out):
        return before
    attempt = max(before.count + 1, news.count.count)
    pause = backoff(attempt, base=AFTER_FAILURE, job_uid=situation.uid)
    cause = news.counted or news.found[0]
    return RetryStatus(count=attempt, not_before=situation.now + pause, message=described(cause))


def _retry_after_pods(
    situation: Situation, retry: RetryStatus, changes: PodChanges, force: InForce
) -> RetryStatus:
    """The back-off after pods were given back; none any more once all wanted pods train."""
    if changes.given_back:
        attempt = retry.count + 1
        pause = after_giving_back(
            attempt, ready_deadline=situation.ready_deadline, job_uid=situation.uid
        )
        return RetryStatus(count=attempt, not_before=situation.now + pause)
    is_complete = force.committed and len(force.members) == situation.size.wanted
    return RetryStatus() if is_complete and not situation.news.found else retry
