"""Explains for `concertina plan` what a batch-size request would lead to, and why.

It runs the plan itself on an imagined cluster in which every pod is warm as soon as it is created,
until nothing changes any more; `explain_plan` tells one plan of a real job. Pure: no I/O, no clock.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, assert_never

from concertina_api.batch import accumulation, grid, identity, num_micro_batches
from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import (
    AdaptiveTrainingJob,
    BatchSizeRequest,
    JobSpec,
    JobStatus,
    Membership,
    PodPhase,
    Progress,
    Report,
    Resize,
    Scaling,
)
from concertina_operator.actions import Action, CreatePod, DeletePod, Plan, PublishMembership
from concertina_operator.observed import Observed, Phase, PodFacts
from concertina_operator.plan import plan
from concertina_operator.sizing import fitting_size, needed_pods

_START: Final = datetime(2000, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(hours=1)
"""Longer than any cooldown or deadline that is worth showing."""
_MAX_TURNS: Final = 40


def explain_sizes(spec: JobSpec) -> Iterator[str]:
    """A table: each batch of the job's grid and the pods that it would run on."""
    yield f"{'batch':>8}  {'micro-batches':>13}  {'pods':>5}  {'workers':>7}  {'per worker':>10}"
    for batch in grid(spec.batch.initial, spec.batch.max):
        micro_batches = num_micro_batches(batch, spec.batch.micro_batch_size)
        needed = needed_pods(spec, effective=batch)
        pods = fitting_size(spec.pods, needed=needed, ceiling=spec.pods.max)
        workers = pods * spec.pods.workers_per_pod
        each = accumulation(micro_batches, workers)
        note = "" if needed <= pods else f"  would need {needed} pods, max is {spec.pods.max}"
        yield f"{batch:>8}  {micro_batches:>13}  {pods:>5}  {workers:>7}  {each:>10}{note}"


def explain_request(
    job: AdaptiveTrainingJob, *, requested: int, granted: int | None = None
) -> Iterator[str]:
    """What happens when the rule of a running job asks for `requested` samples, line by line.

    The job is imagined to run, whatever its mode, its suspension and its deadline say.
    """
    if requested < 1:
        raise InvalidJob(f"request {requested} is below 1")
    spec = _running(job.spec)
    job = job.model_copy(update={"spec": spec, "status": JobStatus()})
    world = _settled(_Imagined(observed=Observed(job=job, granted=granted)))
    effective, why = _effective(spec, requested)
    yield f"now: {len(world.observed.pods)} pod(s), batch {spec.batch.initial}"
    yield f"request: {requested} samples, {why}"
    yield f"next step: {_identity(spec, effective, world.world_size)}"
    request = BatchSizeRequest(
        sequence=1, requested=requested, effective=effective, reason="asked on the command line"
    )
    yield from _story(replace(world, request=request))


def explain_plan(decided: Plan) -> Iterator[str]:
    """What a plan does and why, line by line."""
    yield f"because: {decided.reason}"
    for action in decided.actions:
        yield f"then: {_sentence(action)}"
    if not decided.actions:
        yield "then: nothing"
    for event in decided.events:
        yield f"says: {event.reason} ({event.type}): {event.message}"
    if decided.requeue_after is not None:
        seconds = decided.requeue_after.total_seconds()
        yield f"again: when something changes, at the latest in {seconds:.0f} s"


def _running(spec: JobSpec) -> JobSpec:
    scaling = spec.scaling.model_copy(update={"mode": Scaling.AUTO})
    return spec.model_copy(
        update={"scaling": scaling, "suspend": False, "active_deadline_seconds": None}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Imagined:
    """A cluster that does at once what it is told."""

    observed: Observed
    now: datetime = _START
    request: BatchSizeRequest | None = None

    @property
    def world_size(self) -> int:
        membership = self.observed.membership
        return membership.world_size if membership else 0


def _settled(world: _Imagined) -> _Imagined:
    for _ in range(_MAX_TURNS):
        turned, actions, _ = _turn(world)
        if not actions:
            return turned
        world = turned
    return world


def _story(world: _Imagined) -> Iterator[str]:
    last = ""
    for _ in range(_MAX_TURNS):
        world, actions, reason = _turn(world)
        if reason != last:
            yield f"because: {reason}"
            last = reason
        for action in actions:
            yield f"then: {_sentence(action)}"
        if not actions:
            break
    assert world.request is not None
    result = _identity(world.observed.job.spec, world.request.effective, world.world_size)
    yield f"result: {result}"


def _turn(world: _Imagined) -> tuple[_Imagined, tuple[Action, ...], str]:
    observed = replace(world.observed, reports=_reports(world))
    decided = plan(observed, world.now)
    job = observed.job.model_copy(update={"status": decided.status})
    observed = replace(observed, job=job)
    for action in decided.actions:
        observed = _done(observed, action, now=world.now)
    turned = replace(world, observed=observed, now=world.now + _TICK)
    return turned, decided.actions, decided.reason


def _done(observed: Observed, action: Action, *, now: datetime) -> Observed:
    match action:
        case CreatePod(name=name):
            # A pod of the next turn: warm before any deadline counts.
            born = PodFacts(name=name, uid=name, created=now + _TICK, phase=Phase.RUNNING)
            return replace(observed, pods=(*observed.pods, born))
        case DeletePod(name=name):
            return replace(observed, pods=tuple(pod for pod in observed.pods if pod.name != name))
        case PublishMembership(membership=membership):
            return replace(observed, membership=membership)
        case _:
            assert_never(action)


def _reports(world: _Imagined) -> Mapping[str, Report]:
    """All pods warm; members train in the newest round, which the first of them leads."""
    membership = world.observed.membership
    members = [member.pod for member in membership.members] if membership else []
    reports = {}
    for pod in world.observed.pods:
        report = Report(
            pod=pod.name,
            uid=pod.uid,
            incarnation="1",
            phase=PodPhase.WARM,
            port=1,
            workers=world.observed.job.spec.pods.workers_per_pod,
        )
        if membership and pod.name in members:
            training = {"phase": PodPhase.TRAINING, "round": membership.round}
            report = report.model_copy(update=training)
        if membership and members[:1] == [pod.name]:
            report = report.model_copy(update=_leading(world, membership))
        reports[pod.name] = report
    return reports


def _leading(world: _Imagined, membership: Membership) -> Mapping[str, object]:
    size, number = membership.world_size, membership.round
    return {
        "request": world.request,
        "progress": Progress(step=1, samples=1, world_size=size, round=number),
        "acknowledged": Resize(
            round=number, world_size_before=0, world_size=size, step=0, pause_seconds=0.0
        ),
    }


def _effective(spec: JobSpec, requested: int) -> tuple[int, str]:
    """The largest batch of the job's grid up to the request, and why it is that one."""
    batch = spec.batch
    fitting = [size for size in grid(batch.initial, batch.max) if size <= requested]
    effective = fitting[-1] if fitting else batch.initial
    if effective == requested:
        return effective, "on the job's grid"
    if requested > batch.max:
        return effective, f"runs {effective}: max is {batch.max}"
    if not fitting:
        return effective, f"runs {effective}: the batch never falls below initial"
    return effective, f"runs {effective}: the grid is initial {batch.initial} x 2^k up to max"


def _identity(spec: JobSpec, batch: int, world_size: int) -> str:
    if world_size == 0:
        return "nobody trains"
    micro_batches = num_micro_batches(batch, spec.batch.micro_batch_size)
    return identity(spec.batch.micro_batch_size, micro_batches, world_size)


def _sentence(action: Action) -> str:
    match action:
        case CreatePod(name=name):
            return f"create pod {name}"
        case DeletePod(name=name, reason=reason):
            return f"delete pod {name} ({reason})"
        case PublishMembership(membership=membership):
            pods = ", ".join(member.pod for member in membership.members) or "nobody"
            return f"publish round {membership.round} ({membership.intent}): {pods}"
        case _:
            assert_never(action)
