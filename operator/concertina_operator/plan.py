"""The plan of one job: `plan(observed, now) -> Plan`. The same for local processes and Kubernetes.

Pure: no I/O, no clock. Nothing is remembered but what the status holds: what to do next is
computed anew from spec, pods, membership and reports. A shell stores the status, then does the
actions in order, and calls again when something changed or `requeue_after` is over; a plan that
was carried out is followed by one without actions.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from concertina_api.v1alpha1 import ConditionType, FailureCause, Membership, Scaling
from concertina_operator import course as courses
from concertina_operator import ledger
from concertina_operator.actions import Action, CreatePod, DeletePod, Plan, PublishMembership
from concertina_operator.conditions import holds
from concertina_operator.course import Course
from concertina_operator.failures import described
from concertina_operator.observed import Observed
from concertina_operator.outcome import Ending, ending
from concertina_operator.running import is_below_min_for_too_long, left_alone, running
from concertina_operator.situation import Situation, understand
from concertina_operator.statement import events_of, status_after
from concertina_operator.suspects import named


def plan(observed: Observed, now: datetime) -> Plan:
    """What to do about a job now.

    Raises nothing for what pods report: a report that is absurd is refused with an event.
    """
    mode = observed.job.spec.scaling.mode
    if mode is Scaling.OFF:
        return Plan(
            actions=(),
            status=observed.job.status,
            events=(),
            requeue_after=None,
            reason="mode Off: nothing is planned",
        )
    situation = understand(observed, now=now)
    drawn = _drawn_up(situation, _course(situation))
    return _recommendation(situation, drawn) if mode is Scaling.RECOMMEND else drawn


def _course(situation: Situation) -> Course:
    """The first case that applies."""
    before, spec, news = situation.before, situation.spec, situation.news
    if holds(before, ConditionType.COMPLETED) or holds(before, ConditionType.FAILED):
        return courses.over(situation)
    if not all(standing.is_compatible for standing in situation.standings):
        return courses.untouched(situation)
    if news.permanent is not None:
        message = described(news.permanent)
        return courses.failed(situation, reason="InvalidJob", message=message)
    if (guilty := news.poison) is not None:
        message = f"{named(guilty)}: {guilty.count} failures, the last: {news.count.message}"
        return courses.failed(situation, reason="PoisonSample", message=message)
    if news.count.count > (limit := spec.failure_policy.backoff_limit):
        message = f"{news.count.count} failures > backoffLimit {limit}: {news.count.message}"
        is_memory = news.counted and news.counted.failure.cause is FailureCause.OUT_OF_MEMORY
        reason = "OutOfMemory" if is_memory else "BackoffLimitExceeded"
        return courses.failed(situation, reason=reason, message=message)
    if (left := _active_time_left(situation)) is not None and left <= timedelta(0):
        message = f"active for more than activeDeadlineSeconds {spec.active_deadline_seconds}"
        return courses.failed(situation, reason="DeadlineExceeded", message=message)
    match ending(situation.membership, situation.standings):
        case Ending.COMPLETED:
            return courses.completed(situation)
        case Ending.FINISHING:
            return courses.finishing(situation)
        case Ending.RUNNING:
            pass
    if spec.suspend:
        return courses.suspended(situation)
    if situation.membership_taken:
        return courses.nameless(situation)
    if situation.size.wanted == 0:
        return courses.ungranted(situation)
    if is_below_min_for_too_long(situation):
        return courses.given_back(situation)
    return running(situation)


def _drawn_up(situation: Situation, course: Course) -> Plan:
    published = _published(situation, course)
    actions: list[Action] = [PublishMembership(membership=published)] if published else []
    actions += course.pods.delete
    actions += course.pods.create
    waits = [
        *course.waits,
        course.pods.requeue_after,
        situation.size.requeue_after,
        _active_time_left(situation),
    ]
    return Plan(
        actions=tuple(actions),
        status=status_after(situation, course, published),
        events=events_of(situation, course, published),
        requeue_after=min((wait for wait in waits if wait and wait > timedelta(0)), default=None),
        reason=f"{course.state}: {course.message}; {situation.size.message}",
        starting=course.pods.starting,
        avoid=course.pods.avoid,
    )


def _published(situation: Situation, course: Course) -> Membership | None:
    """The membership to write, or None when it is there already."""
    following = course.next.membership
    if following is None or following == situation.membership:
        return None
    return following.model_copy(update={"request_sequence": situation.status.batch.sequence})


def _active_time_left(situation: Situation) -> timedelta | None:
    """Time until activeDeadlineSeconds are over; it stands still while the job is suspended."""
    limit = situation.spec.active_deadline_seconds
    if limit is None or situation.spec.suspend:
        return None
    return timedelta(seconds=limit) - ledger.active_time(situation.before, now=situation.now)


def _recommendation(situation: Situation, drawn: Plan) -> Plan:
    """The plan that was drawn up in words only: nothing is done, so nothing is said to be."""
    advice = "; ".join(_told(action) for action in drawn.actions)
    kept = _drawn_up(situation, left_alone(situation, advice=advice))
    return replace(
        kept,
        requeue_after=drawn.requeue_after,
        reason=f"mode Recommend: {advice or 'nothing to do'}. {drawn.reason}",
    )


def _told(action: Action) -> str:
    match action:
        case CreatePod():
            return f"would create {action.name}"
        case DeletePod():
            return f"would delete {action.name} ({action.reason})"
        case PublishMembership():
            members = ", ".join(member.pod for member in action.membership.members) or "no pods"
            return f"would publish round {action.membership.round} of {members}"
