"""The shell of `concertina run`: observe, plan, apply, until the plan says that the run is over.

The same plan as in Kubernetes, on files and processes. Status lives in memory; the run's directory
holds everything that a later shell needs to go on. A disk that is full ends nothing: files that
tell about the run are left as they are, and a plan that cannot be carried out is made again.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import (
    AdaptiveTrainingJob,
    ConditionType,
    JobStatus,
    Scaling,
)
from concertina_operator.actions import Plan
from concertina_operator.conditions import condition, holds
from concertina_operator.grace import DEFAULT_GRACE_SECONDS
from concertina_operator.local.apply import apply
from concertina_operator.local.directory import RunDirectory
from concertina_operator.local.display import Display, SteadyDisplay
from concertina_operator.local.interrupts import Interrupts
from concertina_operator.local.narrate import Line, Topic
from concertina_operator.local.observe import Reports, observe, read_membership
from concertina_operator.local.pods import AGENT_COMMAND, LocalPods
from concertina_operator.local.record import Outcome
from concertina_operator.local.status_file import StatusFile
from concertina_operator.local.story import Story
from concertina_operator.observed import Observed
from concertina_operator.plan import plan
from concertina_operator.steady_clock import SteadyClock

_INTERVAL_SECONDS: Final = 0.2
_LAST_SECONDS: Final = 30.0
"""How long agents of a job that is over may take to end by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How agents are run; none of it changes what is trained."""

    agent_command: Sequence[str] = AGENT_COMMAND
    grace_seconds: int = DEFAULT_GRACE_SECONDS
    """Time between telling a pod to end and killing it."""
    metrics_port: int | None = None
    """Pods serve metrics on this port and those after it."""


def run_job(
    job: AdaptiveTrainingJob,
    *,
    directory: RunDirectory,
    display: Display,
    interrupts: Interrupts,
    settings: Settings | None = None,
) -> Outcome:
    """Trains until the job is over or stopped; leaves no process behind, whatever happens.

    The first interrupt asks for a checkpoint and an orderly end, the second ends at once. A reader
    of the output that goes away is an interrupt; a display that breaks otherwise is left dark.
    Raises InvalidJob for a job that would never start.
    """
    check_runnable(job)
    settings = settings or Settings()
    job = job.model_copy(update={"status": _first_status(directory)})
    display = SteadyDisplay(display, on_closed_pipe=interrupts.request)
    story = Story(directory, display=display)
    clock = SteadyClock()
    pods = LocalPods(
        directory,
        clock=clock,
        agent_command=settings.agent_command,
        grace_seconds=settings.grace_seconds,
        metrics_port=settings.metrics_port,
    )
    with closing(display), pods:
        outcome = _loop(
            job, directory=directory, pods=pods, clock=clock, story=story, interrupts=interrupts
        )
        pods.end_all()
        story.end(outcome)
    return outcome


def check_runnable(job: AdaptiveTrainingJob) -> None:
    """Raises InvalidJob for a job on which the plan would never act."""
    if job.spec.scaling.mode is not Scaling.AUTO:
        raise InvalidJob(
            f"scaling.mode is {job.spec.scaling.mode}, which starts no pod; concertina run needs"
            " Auto (concertina plan explains what would happen)"
        )
    if job.spec.suspend:
        raise InvalidJob("suspend is true, so nothing would run; set it to false")


def _loop(
    job: AdaptiveTrainingJob,
    *,
    directory: RunDirectory,
    pods: LocalPods,
    clock: SteadyClock,
    story: Story,
    interrupts: Interrupts,
) -> Outcome:
    reports = Reports(directory)
    status_file = StatusFile(directory.status)
    over_since: float | None = None
    while interrupts.count < 2:
        if interrupts.count and not job.spec.suspend:
            story.say(
                Line(topic=Topic.NOTE, text="stopping: saves a checkpoint; again stops at once")
            )
            job = job.model_copy(update={"spec": job.spec.model_copy(update={"suspend": True})})
        observed = observe(job, directory=directory, pods=pods, reports=reports)
        decided = plan(observed, clock.now())
        try:
            apply(decided.actions, directory=directory, pods=pods)
        except OSError as error:
            story.warn(f"cannot carry out the plan, trying again: {error}")
            # What was not done is not remembered, so the next plan is the same.
            decided = replace(decided, status=job.status, events=())
        job = job.model_copy(update={"status": decided.status})
        try:
            status_file.keep(decided.status)
        except OSError as error:
            story.warn(f"the status is not stored: {error}")
        story.tell(observed, decided)
        outcome = _outcome(observed, decided)
        if outcome is not None:
            now = time.monotonic()
            over_since = over_since or now
            if all(pod.ended for pod in observed.pods) or now - over_since > _LAST_SECONDS:
                return outcome
        time.sleep(_INTERVAL_SECONDS)
    return Outcome.INTERRUPTED


def _outcome(observed: Observed, decided: Plan) -> Outcome | None:
    """How the run ends, once the plan says that it does."""
    status = decided.status
    if holds(status, ConditionType.COMPLETED):
        return Outcome.COMPLETED
    if holds(status, ConditionType.FAILED):
        failed = condition(status, ConditionType.FAILED)
        mistaken = failed is not None and failed.reason == "InvalidJob"
        return Outcome.INVALID if mistaken else Outcome.FAILED
    stopped = observed.job.spec.suspend and all(pod.ended for pod in observed.pods)
    return Outcome.INTERRUPTED if stopped and not decided.actions else None


def _first_status(directory: RunDirectory) -> JobStatus:
    """A new shell's status: pods, reports and members are gone, rounds go on rising.

    The batch of the last shell is kept, so that as many pods start as it had asked for.
    """
    last, stored = read_membership(directory.membership), StatusFile(directory.status).read()
    # The membership may be gone already, the status may be older: rounds never fall.
    newest = max(last.round if last else 0, stored.round)
    # The trainer's requests may count from an older checkpoint: all of them are news.
    batch = stored.batch.model_copy(update={"sequence": 0})
    directory.membership.unlink(missing_ok=True)
    for path in directory.report("any").parent.glob("*.json"):
        path.unlink()
    # Rounds of earlier shells were not tried in vain: the first of this one has its usual time.
    return JobStatus(round=newest, committed_round=newest, batch=batch)
