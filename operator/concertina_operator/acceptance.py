"""Decides which reports count. A report is untrusted: any program in a pod may have written it.

Called by plan.py before anything else. Pure: no I/O, no clock. Identity is pod name and uid; what
does not fit is refused with a sentence, and the job goes on without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from concertina_api.v1alpha1 import PROTOCOL, BatchSizeRequest, JobSpec, PodPhase, Report
from concertina_api.v1alpha1.membership import Member, Membership
from concertina_operator.observed import Observed, PodFacts

MAX_FIRST_ROUND = 2**31
"""Largest round that is believed when the operator itself knows of none."""

ADMISSIBLE = (PodPhase.WARM, PodPhase.TRAINING, PodPhase.WAITING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A pod together with its report, if it has one that counts."""

    pod: PodFacts
    report: Report | None = None

    @property
    def incarnation(self) -> str | None:
        """Incarnation of the workers that run now, as far as the pod has said."""
        return self.report.incarnation if self.report is not None else None

    @property
    def is_leaving(self) -> bool:
        """The pod was told to end, by Kubernetes or by its own SIGTERM."""
        return self.pod.deleting or (self.report is not None and self.report.leaving)

    @property
    def is_alive(self) -> bool:
        """A trainer runs in it, or may yet."""
        return not self.pod.ended and not self.has_phase(PodPhase.FAILED, PodPhase.LEFT)

    @property
    def is_warm(self) -> bool:
        """A round may name the pod: its workers are warm and it has a store to offer."""
        return (
            self.is_alive
            and not self.is_leaving
            and self.has_phase(*ADMISSIBLE)
            and self.report is not None
            and self.report.port is not None
        )

    @property
    def is_compatible(self) -> bool:
        """The pod speaks this operator's protocol, as far as it has said."""
        if self.report is None:
            return True
        return self.report.protocols.oldest <= PROTOCOL <= self.report.protocols.newest

    def has_phase(self, *phases: PodPhase) -> bool:
        """Whether the pod reports one of these phases."""
        return self.report is not None and self.report.phase in phases

    def as_member(self) -> Member:
        """The pod as a round names it. Only for warm pods."""
        assert self.report is not None
        assert self.report.port is not None
        return Member(
            pod=self.pod.name,
            uid=self.pod.uid,
            incarnation=self.report.incarnation,
            host=self.report.host,
            port=self.report.port,
            workers=self.report.workers,
        )


def accept_reports(observed: Observed) -> tuple[tuple[Standing, ...], tuple[str, ...]]:
    """Every pod with the report that counts for it, and the refusals in words."""
    newest_round = known_round(observed)
    sequence = accepted_sequence(observed)
    standings, refusals = [], []
    for pod in observed.pods:
        report = observed.reports.get(pod.name)
        if report is None or report.uid != pod.uid:  # the report of an earlier pod of that name
            standings.append(Standing(pod=pod))
            continue
        accepted, refused = accept_report(
            report, pod=pod, spec=observed.job.spec, sequence=sequence, newest_round=newest_round
        )
        heard, unheard = _within_its_part(accepted, observed.membership)
        standings.append(Standing(pod=pod, report=heard))
        refusals += [f"report of {pod.name}: {refusal}" for refusal in (*refused, *unheard)]
    return tuple(standings), tuple(refusals)


def accept_report(
    report: Report, *, pod: PodFacts, spec: JobSpec, sequence: int, newest_round: int
) -> tuple[Report | None, tuple[str, ...]]:
    """What of a report counts, and why the rest does not.

    `sequence` is the newest accepted request, `newest_round` the newest published round (0 when
    the operator knows of none). A request that is refused does not take the report with it; one
    that is older than `sequence` is what a former leader asked once, and dropped without a word.
    """
    if (report.pod, report.uid) != (pod.name, pod.uid):
        return None, (f"it is of {report.pod} ({report.uid}), not of {pod.name} ({pod.uid})",)
    limit = newest_round or MAX_FIRST_ROUND
    for name, number in _rounds_of(report).items():
        if number > limit:
            return None, (f"{name} {number} is above the newest round {limit}",)
    if report.request is None:
        return report, ()
    without = report.model_copy(update={"request": None})
    if report.request.sequence < sequence:
        return without, ()
    refusal = _refusal(report.request, spec=spec)
    return (report, ()) if refusal is None else (without, (refusal,))


def known_round(observed: Observed) -> int:
    """The newest round that this operator is sure to have published."""
    return max(observed.job.status.round, observed.membership.round if observed.membership else 0)


def accepted_sequence(observed: Observed) -> int:
    """The newest batch-size request that was taken into account."""
    published = observed.membership.request_sequence if observed.membership else 0
    return max(observed.job.status.batch.sequence, published)


def _within_its_part(
    report: Report | None, membership: Membership | None
) -> tuple[Report | None, tuple[str, ...]]:
    """The report without what only the leader of the present round may say, and what that is."""
    if report is None or membership is None or not membership.members:
        return report, ()
    leader, number = membership.members[0], membership.round
    if report.uid == leader.uid:
        return report, ()
    claims = {"acknowledged": report.acknowledged, "progress": report.progress}
    beyond = [name for name, claim in claims.items() if claim and claim.round >= number]
    refusals = tuple(f"{name} of round {number}, which {leader.pod} leads" for name in beyond)
    return report.model_copy(update=dict.fromkeys(beyond)), refusals


def _rounds_of(report: Report) -> Mapping[str, int]:
    return {
        "round": report.round,
        "progress.round": report.progress.round if report.progress else 0,
        "acknowledged.round": report.acknowledged.round if report.acknowledged else 0,
        "failure.round": report.failure.round if report.failure else 0,
    }


def _refusal(request: BatchSizeRequest, *, spec: JobSpec) -> str | None:
    batch = spec.batch
    if request.effective > batch.max:
        return f"request {request.sequence} runs {request.effective} samples, above max {batch.max}"
    if request.effective % batch.micro_batch_size:
        return (
            f"request {request.sequence} runs {request.effective} samples,"
            f" not a multiple of microBatchSize {batch.micro_batch_size}"
        )
    return None
