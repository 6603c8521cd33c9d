"""Understands what was observed: who is there, what was asked, what went wrong.

Called by plan.py once per plan; the courses (courses.py) decide from the result and look at nothing
else. Pure: no I/O, no clock.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from concertina_api.v1alpha1 import ConditionType, JobSpec, JobStatus, Membership, Scaling
from concertina_operator import ledger, recovery
from concertina_operator.acceptance import Standing, accept_reports, known_round
from concertina_operator.attendance import Attendance, attendance
from concertina_operator.conditions import condition
from concertina_operator.failures import FailureNews, failures
from concertina_operator.observed import Observed
from concertina_operator.offences import unexpired
from concertina_operator.own_time import in_own_time
from concertina_operator.sizing import Sizing, sizing


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """One job at one moment, with the books up to date."""

    name: str
    uid: str
    spec: JobSpec
    generation: int
    before: JobStatus
    """The status of the previous plan."""
    status: JobStatus
    """The same with request, progress, resizes, failures and times of now."""
    membership: Membership | None
    standings: tuple[Standing, ...]
    there: Attendance
    news: FailureNews
    size: Sizing
    granted: int | None
    ceiling: int
    """Largest number of pods that may hold a place."""
    number: int
    """Number of the next round."""
    refusals: tuple[str, ...]
    membership_taken: bool
    template_fault: str
    now: datetime

    @property
    def not_before(self) -> datetime | None:
        """No pod is created earlier than this."""
        return self.status.retry.not_before

    @property
    def is_backing_off(self) -> bool:
        """Creation of pods waits after failures or after pods were given back."""
        return self.not_before is not None and self.now < self.not_before

    @property
    def ready_deadline(self) -> timedelta:
        """Time that a pod has to be admitted."""
        return timedelta(seconds=self.spec.scaling.ready_deadline_seconds)


def understand(observed: Observed, *, now: datetime) -> Situation:
    """The situation that a job is in."""
    before = in_own_time(observed.job.status, known_since=observed.known_since, now=now)
    job, membership = observed.job.model_copy(update={"status": before}), observed.membership
    observed, spec = replace(observed, job=job), job.spec
    standings, refusals = accept_reports(observed)
    status = _books(observed, standings=standings, now=now)
    news = failures(
        before.failures,
        membership=membership,
        standings=standings,
        step=status.progress.step,
        not_before=before.retry.not_before,
        now=now,
    )
    rounds = (standing.report.round for standing in standings if standing.report is not None)
    ceiling = spec.pods.max if observed.granted is None else min(spec.pods.max, observed.granted)
    return Situation(
        name=job.metadata.name,
        uid=job.metadata.uid or job.metadata.name,
        spec=spec,
        generation=job.metadata.generation,
        before=before,
        status=status.model_copy(update={"failures": news.count}),
        membership=membership,
        standings=standings,
        there=attendance(membership, standings, committed_round=status.committed_round),
        news=news,
        size=sizing(
            spec,
            effective=status.batch.effective,
            wanted_before=_size_before(observed),
            granted=observed.granted,
            scaled_at=before.scaled_at,
            now=now,
        ),
        granted=observed.granted,
        ceiling=ceiling,
        number=1 + max(known_round(observed), *rounds, 0),
        refusals=refusals,
        membership_taken=observed.membership_taken,
        template_fault=observed.template_fault,
        now=now,
    )


def _size_before(observed: Observed) -> int:
    """The size that the job has or is on its way to; nothing is on its way to a recommendation."""
    if observed.job.spec.scaling.mode is Scaling.AUTO:
        return observed.job.status.pods.wanted
    return len(observed.membership.members) if observed.membership else 0


def _books(observed: Observed, *, standings: tuple[Standing, ...], now: datetime) -> JobStatus:
    job, before = observed.job, observed.job.status
    reports = ledger.reports_of(standings)
    resizing = condition(before, ConditionType.RESIZING)
    newest, resizes = ledger.last_resize(
        before, reports=reports, reason=resizing.message if resizing else "", now=now
    )
    membership = observed.membership
    world_size = membership.world_size if membership else 0
    clock = ledger.gpu_clock(
        before, pods=observed.pods, workers_per_pod=job.spec.pods.workers_per_pod, now=now
    )
    return before.model_copy(
        update={
            "observed_generation": job.metadata.generation,
            "batch": ledger.batch_status(
                before.batch, spec=job.spec, reports=reports, world_size=world_size
            ),
            "progress": ledger.progress_status(
                before.progress, spec=job.spec, reports=reports, now=now
            ),
            "committed_round": ledger.committed_round(before.committed_round, reports),
            "last_resize": newest,
            "resizes": resizes,
            "resize_counts": ledger.resize_counts(
                before, reports=reports, reason=resizing.reason if resizing else "Unknown"
            ),
            "start_time": before.start_time or now,
            "offences": unexpired(before.offences, now=now),
            "snapshot": recovery.snapshot_status(
                before.snapshot, recovery.leading_report(membership, standings)
            ),
            "recoveries": recovery.recoveries(
                before, reports=reports, membership=membership, now=now
            ),
            "useful_gpu_seconds": recovery.useful_gpu_seconds(
                before, reports=reports, gpu_seconds=clock["gpu_seconds"]
            ),
            **clock,
        }
    )
