"""Turns API objects into the facts that a plan is computed from.

The reflectors keep the small values of this module (OwnedPod, HeardReport, StoredMembership)
instead of whole objects; `observed` puts them together for one job, `observed_from` does the same
from whole objects. Reports are written by programs of the user: one that is malformed or huge is
refused in words, and the last good one of the same pod stands. Pure: no I/O, no clock.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from concertina_api.errors import InvalidJob
from concertina_api.manifest import strangeness
from concertina_api.v1alpha1 import (
    AdaptiveTrainingJob,
    ConditionType,
    JobStatus,
    Membership,
    Report,
    TrainingMembership,
    TrainingReport,
)
from concertina_operator.cluster.notices import notice_of
from concertina_operator.cluster.pod_facts import OwnedPod, owner_of, read_pod
from concertina_operator.cluster.template import template_hash
from concertina_operator.observed import Observed

MAX_REPORT_BYTES: Final = 16 * 1024
NO_NOTICES: Final[Mapping[str, tuple[str, ...]]] = {}
_CONDITIONS: Final = frozenset(ConditionType)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardReport:
    """The newest valid report of a pod, and why a newer one was refused."""

    report: Report | None
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMembership:
    """A membership with what is needed to replace it."""

    owner: str
    version: str
    """resourceVersion."""
    membership: Membership | None
    """None when it cannot be understood; it will be written anew."""


def observed(
    job: AdaptiveTrainingJob,
    *,
    membership: StoredMembership | None,
    pods: Iterable[OwnedPod],
    reports: Iterable[HeardReport],
    notices: Mapping[str, tuple[str, ...]] = NO_NOTICES,
) -> Observed:
    """What is known of a job; objects of other owners are left out.

    `notices` are the taints by which nodes say that they are about to be taken away.
    """
    uid = job.metadata.uid
    is_ours = membership is not None and membership.owner == uid
    template = template_hash(job.spec)
    return Observed(
        job=job,
        membership=membership.membership if membership is not None and is_ours else None,
        reports={heard.report.pod: heard.report for heard in reports if heard.report is not None},
        pods=tuple(
            replace(
                pod.facts,
                outdated=pod.template not in ("", template),
                notice=pod.facts.notice or _notice(pod, notices),
            )
            for pod in sorted(pods, key=lambda pod: pod.facts.name)
            if pod.owner == uid
        ),
        membership_taken=membership is not None and not is_ours,
    )


def observed_from(
    job: Mapping[str, Any],
    *,
    membership: Mapping[str, Any] | None,
    pods: Iterable[Mapping[str, Any]],
    reports: Iterable[Mapping[str, Any]],
) -> Observed:
    """The same from whole objects. Raises InvalidJob when the job's spec is."""
    return observed(
        read_job(job),
        membership=read_membership(membership) if membership is not None else None,
        pods=[read_pod(pod) for pod in pods],
        reports=[read_report(report) for report in reports],
    )


def read_job(document: Mapping[str, Any]) -> AdaptiveTrainingJob:
    """The job. Raises InvalidJob with one line per mistake.

    What this operator does not understand of the status, which a newer one wrote, is left out.
    """
    if fault := strangeness(document.get("spec")):
        raise InvalidJob(f"spec.{fault}")
    try:
        return AdaptiveTrainingJob.model_validate({**document, "status": read_status(document)})
    except ValidationError as error:
        raise InvalidJob("\n".join(_mistakes(error))) from error


def read_status(document: Mapping[str, Any]) -> JobStatus:
    """The status of a job as far as this operator understands it."""
    found = document.get("status")
    status = dict(found) if isinstance(found, Mapping) else {}
    conditions = status.get("conditions")
    status["conditions"] = [
        entry
        for entry in (conditions if isinstance(conditions, list | tuple) else ())
        if isinstance(entry, Mapping) and str(entry.get("type")) in _CONDITIONS
    ]
    try:
        return JobStatus.model_validate(status)
    except ValidationError as error:
        strange = {mistake["loc"][0] for mistake in error.errors(include_url=False)}
        return JobStatus.model_validate(
            {name: value for name, value in status.items() if name not in strange}
        )


def read_report(document: Mapping[str, Any], last: HeardReport | None = None) -> HeardReport:
    """The report, or the pod's last good one with the reason why this one is refused."""
    name = document["metadata"]["name"]
    kept = last.report if last is not None else None
    spec = document.get("spec")
    size = len(json.dumps(spec))
    if size > MAX_REPORT_BYTES:
        refusal = f"report of {name}: {size} bytes > {MAX_REPORT_BYTES}"
        return HeardReport(report=kept, refusal=refusal)
    try:
        report = TrainingReport.model_validate({"spec": spec}).spec
    except ValidationError as error:
        return HeardReport(report=kept, refusal=f"report of {name}: {next(_mistakes(error))}")
    if report.pod != name:
        refusal = f"report of {name}: it is about the pod {report.pod}"
        return HeardReport(report=kept, refusal=refusal)
    return HeardReport(report=report)


def read_membership(
    document: Mapping[str, Any], _: StoredMembership | None = None
) -> StoredMembership:
    """The membership, and whose it is."""
    try:
        membership = TrainingMembership.model_validate({"spec": document.get("spec")}).spec
    except ValidationError:
        membership = None
    return StoredMembership(
        owner=owner_of(document),
        version=document["metadata"]["resourceVersion"],
        membership=membership,
    )


def _notice(pod: OwnedPod, notices: Mapping[str, tuple[str, ...]]) -> str:
    """What the pod's node says of itself."""
    node = pod.facts.node
    return notice_of(node, notices.get(node, ()), tolerated=pod.tolerated)


def _mistakes(error: ValidationError) -> Iterator[str]:
    for mistake in error.errors(include_url=False):
        place = ".".join(str(part) for part in mistake["loc"]) or "document"
        shown = repr(mistake["input"])
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        yield f"{place}: {mistake['msg']}, got {shown}"
