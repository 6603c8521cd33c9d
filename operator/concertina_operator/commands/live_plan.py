"""`concertina plan JOB`: what the operator would do now about a job of a cluster, and why.

The same plan, computed here from the objects as they are now; nothing is written.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, assert_never

from concertina_api.v1alpha1 import ConditionType, Scaling
from concertina_operator.actions import Action, CreatePod, DeletePod, Plan, PublishMembership
from concertina_operator.cluster.claims import MANAGER
from concertina_operator.cluster.facts import read_status
from concertina_operator.cluster.template import template_faults
from concertina_operator.commands.live import Document, LiveJob
from concertina_operator.conditions import condition, holds
from concertina_operator.explain import explain_plan
from concertina_operator.observed import Observed
from concertina_operator.plan import plan


def plan_of(live: LiveJob, *, now: datetime, granted: int | None = None) -> tuple[Observed, Plan]:
    """What is known of the job, and the plan that follows. Raises InvalidJob.

    `granted` are the pods that a quota allows; without it they are as the status says.
    """
    observed = live.observed()
    known = observed.job.status.pods.granted
    observed = replace(observed, granted=known if granted is None else granted)
    return observed, plan(observed, now)


def told(observed: Observed, decided: Plan) -> Iterator[str]:
    """The plan in lines, with what keeps the operator from carrying it out."""
    job, status = observed.job, observed.job.status
    members = len(observed.membership.members) if observed.membership else 0
    yield (
        f"now: {len(observed.pods)} pod(s), {members} of them in round {status.round},"
        f" batch {status.batch.effective or job.spec.batch.initial},"
        f" {status.state or 'not seen by an operator yet'}"
    )
    yield from explain_plan(decided)
    yield from (f"but: {hindrance}" for hindrance in hindrances(observed))


def plan_document(observed: Observed, decided: Plan) -> dict[str, Any]:
    """The same for programs; times in seconds."""
    after = decided.requeue_after
    return {
        "namespace": observed.job.metadata.namespace,
        "name": observed.job.metadata.name,
        "reason": decided.reason,
        "actions": [_action(action) for action in decided.actions],
        "events": [asdict(event) for event in decided.events],
        "requeueAfterSeconds": after.total_seconds() if after is not None else None,
        "hindrances": list(hindrances(observed)),
    }


def hindrances(observed: Observed) -> Iterator[str]:
    """Why the operator would not do what the plan says."""
    spec = observed.job.spec
    yield from abstentions(mode=spec.scaling.mode, managed_by=spec.managed_by)
    for fault in template_faults(spec):
        yield f"{fault}: the operator creates no pod"


def abstentions(*, mode: str, managed_by: str | None) -> Iterator[str]:
    """Why the operator does nothing for a job, whatever else its spec says."""
    if mode != Scaling.AUTO:
        yield f"scaling.mode is {mode}: the operator changes nothing"
    if managed_by not in (None, "", MANAGER):
        yield f"managedBy is {managed_by}: this operator leaves the job alone"


def switched(job: Document) -> str:
    """What becomes of a job that was suspended or resumed just now."""
    word = "suspended" if job["spec"]["suspend"] else "resumed"
    if why := _without_effect(job):
        return f"{word}, {why}"
    if not job["spec"]["suspend"]:
        return word
    if suspension_warning(job):
        return f"{word}: it gives back its pods"
    return f"{word}: it saves a checkpoint and gives back its pods"


def suspension_warning(job: Document) -> str | None:
    """What a job loses by being suspended; None when its checkpoint outlives its pods."""
    durable = condition(read_status(job), ConditionType.CHECKPOINT_DURABLE)
    if durable is None or durable.status == "True" or _without_effect(job):
        return None
    return f"the job begins anew when it is resumed: {durable.message}"


def _without_effect(job: Document) -> str | None:
    """Why it does not matter whether a job is suspended."""
    spec, status = job["spec"], read_status(job)
    ends = (ConditionType.COMPLETED, ConditionType.FAILED)
    if over := [name.value for name in ends if holds(status, name)]:
        return f"which changes nothing: it is {over[0]}"
    mode = spec.get("scaling", {}).get("mode", Scaling.AUTO)
    if reasons := list(abstentions(mode=mode, managed_by=spec.get("managedBy"))):
        return f"but {'; '.join(reasons)}"
    return None


def _action(action: Action) -> dict[str, Any]:
    match action:
        case CreatePod():
            return {"action": "CreatePod", "pod": action.name}
        case DeletePod():
            return {"action": "DeletePod", "pod": action.name, "reason": action.reason}
        case PublishMembership(membership=membership):
            written = membership.model_dump(mode="json", by_alias=True)
            return {"action": "PublishMembership", "membership": written}
        case _:
            assert_never(action)
