"""Decides which reports count. A report is untrusted: any program in a pod may have written it.

Called by plan.py before anything else. Pure: no I/O, no clock. Identity is pod name and uid; what
does not fit is refused with a sentence, and the job goes on without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from concertina_api.v1alpha1 import PROTOCOL, JobSpec, PodPhase, Report
from concertina_api.v1alpha1.membership import Member, Membership
from concertina_operator.observed import Observed, PodFacts
from concertina_operator.requested import counted_request

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
        """The pod was told to end, or is about to be."""
        return self.is_ending or bool(self.notice)

    @property
    def is_ending(self) -> bool:
        """The pod was told to end, by Kubernetes or by its own SIGTERM: it exits by itself."""
        return self.pod.deleting or (self.report is not None and self.report.leaving)

    @property
    def notice(self) -> str:
        """Who says that the pod is about to be told to end; empty once it was, or has ended."""
        return self.pod.notice if self.is_alive and not self.is_ending else ""

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
    standings, refusals = [], []
    for pod in observed.pods:
        report = observed.reports.get(pod.name)
        if report is None or report.uid != pod.uid:  # the report of an earlier pod of that name
            standings.append(Standing(pod=pod))
            continue
        heard, refused = accept_report(report, pod=pod, observed=observed)
        standings.append(Standing(pod=pod, report=heard))
        refusals += [f"report of {pod.name}: {refusal}" for refusal in refused]
    return tuple(standings), tuple(refusals)


def accept_report(
    report: Report, *, pod: PodFacts, observed: Observed
) -> tuple[Report | None, tuple[str, ...]]:
    """What of a report counts, and why the rest does not.

    A request that is refused does not take the report with it.
    """
    untruth = _untruth(report, pod=pod, spec=observed.job.spec, newest_round=known_round(observed))
    if untruth is not None:
        return None, (untruth,)
    heard, beyond = _within_its_part(report, observed.membership)
    request, refusal = counted_request(
        report,
        membership=observed.membership,
        spec=observed.job.spec,
        before=observed.job.status.batch,
        accepted=accepted_sequence(observed),
    )
    heard = heard.model_copy(update={"request": request})
    return heard, beyond if refusal is None else (*beyond, refusal)


def known_round(observed: Observed) -> int:
    """The newest round that this operator is sure to have published."""
    return max(observed.job.status.round, observed.membership.round if observed.membership else 0)


def accepted_sequence(observed: Observed) -> int:
    """The newest batch-size request that was taken into account."""
    published = observed.membership.request_sequence if observed.membership else 0
    return max(observed.job.status.batch.sequence, published)


def _untruth(report: Report, *, pod: PodFacts, spec: JobSpec, newest_round: int) -> str | None:
    """What the operator knows better; `newest_round` is 0 when it knows of no round."""
    if (report.pod, report.uid) != (pod.name, pod.uid):
        return f"it is of {report.pod} ({report.uid}), not of {pod.name} ({pod.uid})"
    limit = newest_round or MAX_FIRST_ROUND
    for name, number in _rounds_of(report).items():
        if number > limit:
            return f"{name} {number} is above the newest round {limit}"
    if report.port is None:
        return None  # no round can name it, whatever else it says of itself
    if report.workers != spec.pods.workers_per_pod:
        return f"workers is {report.workers}, but workersPerPod is {spec.pods.workers_per_pod}"
    if pod.addresses and report.host not in pod.addresses:
        return f"host {report.host} is not the pod's address {', '.join(pod.addresses)}"
    return None


def _within_its_part(
    report: Report, membership: Membership | None
) -> tuple[Report, tuple[str, ...]]:
    """The report without what only the leader of the present round may say, and what that is."""
    if membership is None or not membership.members:
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
