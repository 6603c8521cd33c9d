"""Composes the report of a pod from what its workers and its agent know, within its bounds.

Called by the pod in every turn; when a report is sent is decided in publisher.py. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from concertina_api.v1alpha1 import (
    Failure,
    Membership,
    PodPhase,
    Report,
    TrainingReport,
)
from concertina_trainer.agent.mailbox import WorkerStatus

MAX_BYTES = 2048
_MAX_SUSPECTS = 64
_LEAST_TRACEBACK = 256
# The pod is in the first of these phases that one of its workers is in.
_LEADING_PHASES = (
    PodPhase.FAILED,
    PodPhase.WAITING,
    PodPhase.STARTING,
    PodPhase.WARM,
    PodPhase.TRAINING,
    PodPhase.LEFT,
    PodPhase.FINISHED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFacts:
    """What the agent itself knows."""

    pod: str
    uid: str
    incarnation: str
    host: str
    port: int | None
    workers: int
    membership: Membership | None = None
    leaving: bool = False
    suspects: tuple[str, ...] = ()
    """Pods that do not answer the agent."""
    failure: Failure | None = None
    """The newest failure of a worker, also when others run by now."""
    given_up: bool = False
    """The workers are not started again."""


def compose(statuses: Sequence[WorkerStatus], facts: AgentFacts, *, now: datetime) -> Report:
    """The report of a pod from the statuses of its workers, in the order of local ranks.

    Statuses of an earlier incarnation are not counted. Local rank 0 speaks for the job (request,
    progress, acknowledgement, checkpoint, snapshot, slow pods) unless it is a worker of another rank
    than 0.
    """
    present = [status for status in statuses if status.incarnation == facts.incarnation]
    number = min((status.round for status in present), default=0)
    report = Report(
        pod=facts.pod,
        uid=facts.uid,
        incarnation=facts.incarnation,
        phase=_phase(present, facts),
        host=facts.host,
        port=facts.port,
        workers=facts.workers,
        round=number,
        leaving=facts.leaving,
        suspects=_suspects(present, number, facts),
        probe=facts.membership.probe if facts.membership else 0,
        failure=facts.failure or next((s.failure for s in present if s.failure), None),
        finished=len(present) == facts.workers and all(status.finished for status in present),
        state_bytes=max((s.state_bytes for s in present if s.state_bytes), default=None),
        peak_bytes=max((s.peak_bytes for s in present if s.peak_bytes), default=None),
        time=now,
    )
    if present and present[0].local_rank == 0 and present[0].rank <= 0:
        leader = present[0]
        report = report.model_copy(
            update={
                "request": leader.request,
                "progress": leader.progress,
                "acknowledged": leader.acknowledged,
                "checkpoint": leader.checkpoint,
                "snapshot": leader.snapshot,
                "slow": leader.slow,
            }
        )
    return _within_bounds(report)


def size_bytes(report: Report) -> int:
    """Size of a report as it is sent."""
    document = TrainingReport(spec=report)
    return len(document.model_dump_json(by_alias=True, exclude_none=True).encode())


def _phase(present: Sequence[WorkerStatus], facts: AgentFacts) -> PodPhase:
    if facts.given_up:
        return PodPhase.FAILED
    if len(present) < facts.workers:
        return PodPhase.STARTING
    phases = {status.phase for status in present}
    return next(phase for phase in _LEADING_PHASES if phase in phases)


def _suspects(present: Sequence[WorkerStatus], number: int, facts: AgentFacts) -> tuple[str, ...]:
    names = {name for status in present if status.round == number for name in status.suspects}
    return tuple(sorted(names.union(facts.suspects) - {facts.pod}))[:_MAX_SUSPECTS]


def _within_bounds(report: Report) -> Report:
    """Shorten the longest texts until the report fits into 2 KiB; numbers are never dropped."""
    for shorten in (_short_traceback, _short_failure, _short_reason, _few_suspects, _no_phases):
        if size_bytes(report) <= MAX_BYTES:
            break
        report = shorten(report)
    return report


def _short_traceback(report: Report) -> Report:
    """With the end of the traceback, which says most, as far as there is room."""
    if report.failure is None:
        return report
    told = report.failure.traceback
    cut = min(size_bytes(report) - MAX_BYTES, max(len(told) - _LEAST_TRACEBACK, 0))
    return report.model_copy(
        update={"failure": report.failure.model_copy(update={"traceback": told[cut:]})}
    )


def _short_failure(report: Report) -> Report:
    if report.failure is None:
        return report
    message = report.failure.message[-160:]
    return report.model_copy(
        update={"failure": report.failure.model_copy(update={"message": message})}
    )


def _short_reason(report: Report) -> Report:
    if report.request is None:
        return report
    reason = report.request.reason[:160]
    return report.model_copy(
        update={"request": report.request.model_copy(update={"reason": reason})}
    )


def _few_suspects(report: Report) -> Report:
    return report.model_copy(update={"suspects": report.suspects[:8]})


def _no_phases(report: Report) -> Report:
    if report.acknowledged is None:
        return report
    return report.model_copy(
        update={"acknowledged": report.acknowledged.model_copy(update={"phases": {}})}
    )
