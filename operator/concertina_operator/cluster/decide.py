"""Plans one job as the shell on Kubernetes may carry it out. Called by the reconcile.

The plan itself is made in plan.py; here it learns which pods the server refused and whether it takes
the template at all, and gets the conditions and events that only this shell can give (claims.py).
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from concertina_api.v1alpha1 import ConditionType
from concertina_operator.actions import Plan, PublishMembership
from concertina_operator.cluster.apply import BINDING, MEMBERSHIP
from concertina_operator.cluster.claims import (
    Verdict,
    claims,
    hindered,
    is_to_be_tried,
    refusals_told,
    warnings,
    with_retries,
)
from concertina_operator.cluster.client import Api
from concertina_operator.cluster.dry_run import DryRuns
from concertina_operator.cluster.observe import Watched
from concertina_operator.cluster.pod import JOB_LABEL
from concertina_operator.cluster.refusals import Refusal, Refusals, time_to_next
from concertina_operator.cluster.target import Target
from concertina_operator.conditions import conditions
from concertina_operator.plan import plan
from concertina_operator.pods import creations


class Decisions:
    """Plans of any job."""

    def __init__(self, api: Api, *, watched: Watched, refusals: Refusals) -> None:
        self._watched = watched
        self._refusals = refusals
        self._dry_runs = DryRuns(api)

    async def decide(self, target: Target, *, now: datetime) -> Plan:
        """The plan, which may first ask the server about the template."""
        job, metadata = target.job, target.job.metadata
        refused = self._refusals.of(target.uid)
        decided, verdict = await self._tried(target, refused, now=now)
        taken = [f"pod {refusal.name}: {refusal.words}" for refusal in refused if refusal.is_taken]
        if target.membership is not None and target.membership.owner != target.uid:
            taken.append(f"{MEMBERSHIP} {metadata.name} belongs to somebody else")
        claimed = tuple(claims(job.spec, before=job.status, verdict=verdict, taken=taken))
        hindrances = hindered(decided.status, self._hindrances(target, decided))
        status = decided.status.model_copy(
            update={
                "selector": f"{JOB_LABEL}={metadata.name}",
                "conditions": conditions(
                    decided.status.conditions,
                    (*claimed, *hindrances),
                    generation=metadata.generation,
                    now=now,
                ),
            }
        )
        reports = self._watched.reports_of(target.key, job_uid=metadata.uid)
        events = (
            *decided.events,
            *warnings(job.status, claimed),
            *refusals_told(refused, reports),
        )
        return replace(decided, status=status, events=events)

    def time_to_next(self, job_uid: str, *, now: datetime) -> timedelta | None:
        """Time until something that the server refused is to be tried again."""
        waits = (
            time_to_next(self._refusals.of(job_uid), now=now),
            self._dry_runs.time_to_next(job_uid, now=now),
        )
        return min((wait for wait in waits if wait is not None), default=None)

    def forget(self, job_uid: str) -> None:
        """The job is gone."""
        self._dry_runs.forget(job_uid)

    async def _tried(
        self, target: Target, refused: tuple[Refusal, ...], *, now: datetime
    ) -> tuple[Plan, Verdict | None]:
        """The plan, and what is known of the template, if it matters to the plan."""
        job, metadata = target.job, target.job.metadata
        observed = self._watched.observe(job, refused=refused, now=now)
        decided = with_retries(plan(observed, now), refused, now=now)
        if not is_to_be_tried(decided, job.status, generation=metadata.generation):
            return decided, None
        (free,) = creations(metadata.name, 1, taken={pod.name for pod in observed.pods})
        verdict = await self._dry_runs.verdict(job, target.document, name=free.name, now=now)
        if verdict is None or verdict.is_valid:
            return decided, verdict
        # What was refused before is not tried again either.
        observed = self._watched.observe(job, refused=(), now=now)
        return plan(replace(observed, template_fault=verdict.message), now), verdict

    def _hindrances(self, target: Target, decided: Plan) -> Mapping[ConditionType, str]:
        """Conditions that suffer from an object that the server would not take, and its words."""
        refused, words = self._refusals.objects_of(target.uid), {}
        publishes = any(isinstance(action, PublishMembership) for action in decided.actions)
        if MEMBERSHIP in refused and publishes:
            words[ConditionType.READY] = f"{MEMBERSHIP} is not written: {refused[MEMBERSHIP]}"
        if BINDING in refused and decided.starting:
            words[ConditionType.PODS_READY] = f"{BINDING} is not created: {refused[BINDING]}"
        return words
