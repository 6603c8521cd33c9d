"""Turns API objects into the facts that a plan is computed from.

The reflectors keep the small values of this module (OwnedPod, HeardReport, StoredMembership)
instead of whole objects; `observed` puts them together for one job, `observed_from` does the same
from whole objects. Reports are written by programs of the user: one that is malformed or huge is
refused in words, and the last good one of the same pod stands. Pure: no I/O, no clock.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import (
    AdaptiveTrainingJob,
    ConditionType,
    JobStatus,
    Membership,
    Report,
    TrainingMembership,
    TrainingReport,
)
from concertina_operator.cluster.pod import JOB_LABEL, TEMPLATE_ANNOTATION, TRAINER_ANNOTATION
from concertina_operator.cluster.store import Key
from concertina_operator.cluster.template import (
    Lifecycle,
    grace_after_hook,
    template_hash,
    trainer_container_name,
)
from concertina_operator.observed import Observed, Phase, PodFacts

MAX_REPORT_BYTES: Final = 16 * 1024
MAX_ENDING: Final = 400
"""Characters; a container may write 4 KiB about its end."""
_QUIET_ENDS: Final = frozenset({"Completed", "Error"})
"""Reasons that say no more than the exit code."""
_QUIET_WAITS: Final = frozenset({"", "ContainerCreating", "PodInitializing"})
"""What a container that starts as it should waits for."""
_CONDITIONS: Final = frozenset(ConditionType)
_PHASES: Final = frozenset(Phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedPod:
    """A pod with the job that it belongs to."""

    job: Key
    """Named by its controller, which is a job where the pod is ours; else by its label."""
    owner: str
    """uid of its controller, which alone decides whose it is."""
    facts: PodFacts
    template: str = ""
    """Stands for the template that it was built from; empty where that is not known."""


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
) -> Observed:
    """What is known of a job; objects of other owners are left out."""
    uid = job.metadata.uid
    is_ours = membership is not None and membership.owner == uid
    template = template_hash(job.spec)
    return Observed(
        job=job,
        membership=membership.membership if membership is not None and is_ours else None,
        reports={heard.report.pod: heard.report for heard in reports if heard.report is not None},
        pods=tuple(
            replace(pod.facts, outdated=pod.template not in ("", template))
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
    try:
        return AdaptiveTrainingJob.model_validate({**document, "status": read_status(document)})
    except ValidationError as error:
        raise InvalidJob("\n".join(_mistakes(error))) from error


def read_status(document: Mapping[str, Any]) -> JobStatus:
    """The status of a job as far as this operator understands it."""
    status = dict(document.get("status") or {})
    known = (entry for entry in status.get("conditions", ()) if entry.get("type") in _CONDITIONS)
    status["conditions"] = tuple(known)
    try:
        return JobStatus.model_validate(status)
    except ValidationError as error:
        strange = {mistake["loc"][0] for mistake in error.errors(include_url=False)}
        return JobStatus.model_validate(
            {name: value for name, value in status.items() if name not in strange}
        )


def read_pod(document: Mapping[str, Any], _: OwnedPod | None = None) -> OwnedPod:
    """The pod's facts, and whose it is."""
    metadata, status = document["metadata"], document.get("status") or {}
    owner, labels = _controller(document), metadata.get("labels") or {}
    trainer = _trainer_status(document)
    ended = trainer.get("state", {}).get("terminated")
    phase = status.get("phase", "Pending")
    return OwnedPod(
        # Not by its label first, which tools and people rewrite.
        job=Key(metadata["namespace"], owner.get("name") or labels.get(JOB_LABEL, "")),
        owner=owner.get("uid", ""),
        template=(metadata.get("annotations") or {}).get(TEMPLATE_ANNOTATION, ""),
        facts=PodFacts(
            name=metadata["name"],
            uid=metadata["uid"],
            created=datetime.fromisoformat(metadata["creationTimestamp"]),
            phase=Phase(phase) if phase in _PHASES else Phase.UNKNOWN,
            placed=bool(document["spec"].get("nodeName")),
            addresses=tuple(entry["ip"] for entry in status.get("podIPs") or ()),
            ready=_holds(status, "Ready"),
            deleting="deletionTimestamp" in metadata,
            grace_seconds=_grace_seconds(document),
            exit_code=int(ended.get("exitCode", -1)) if ended is not None else None,
            setup_failed=ended is None and any(_failed_setups(status)),
            disrupted=_holds(status, "DisruptionTarget"),
            ending="; ".join(_end_in_words(status, ended))[:MAX_ENDING],
            message="; ".join(_hindrances(document)),
        ),
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


def owner_of(document: Mapping[str, Any]) -> str:
    """uid of the controller of an object; empty when it has none."""
    return str(_controller(document).get("uid", ""))


def _controller(document: Mapping[str, Any]) -> Mapping[str, Any]:
    owners = document["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), {})


def _trainer_status(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Status of the container that trains: sidecars end neither the pod nor the training."""
    return _of_trainer(document, (document.get("status") or {}).get("containerStatuses") or ())


def _of_trainer(
    document: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """What is about the container that trains."""
    annotations = document["metadata"].get("annotations") or {}
    name = annotations.get(TRAINER_ANNOTATION) or trainer_container_name(document["spec"])
    return next((entry for entry in entries if entry.get("name") == name), {})


def _grace_seconds(document: Mapping[str, Any]) -> int | None:
    """Time that the trainer has from its SIGTERM on, by the deletion that is under way."""
    granted = document["metadata"].get("deletionGracePeriodSeconds")
    if granted is None:
        return None
    trainer = _of_trainer(document, document["spec"].get("containers") or ())
    lifecycle = Lifecycle.model_validate(trainer.get("lifecycle") or {})
    return grace_after_hook(granted, lifecycle=lifecycle)


def _hindrances(document: Mapping[str, Any]) -> Iterator[str]:
    """Why the pod does not run, in the server's words."""
    name, status = document["metadata"]["name"], document.get("status") or {}
    if status.get("phase") in ("Running", "Succeeded"):
        return
    if status.get("message"):
        yield f"{name}: {status['message']}"
    for entry in status.get("conditions") or ():
        if entry.get("type") == "PodScheduled" and entry.get("status") == "False":
            yield f"{name}: {entry.get('message') or entry.get('reason', '')}"
    for field in ("initContainerStatuses", "containerStatuses"):
        for entry in status.get(field) or ():
            waiting = (entry.get("state") or {}).get("waiting") or {}
            if waiting.get("reason", "") not in _QUIET_WAITS:
                told = waiting.get("message") or waiting["reason"]
                yield f"{name}: container {entry['name']}: {told}"


def _holds(status: Mapping[str, Any], name: str) -> bool:
    """Whether a condition of the pod is True."""
    return any(
        entry.get("type") == name and entry.get("status") == "True"
        for entry in status.get("conditions") or ()
    )


def _failed_setups(status: Mapping[str, Any]) -> Iterator[str]:
    """Init containers that ended badly, in words, once the pod is given up."""
    if status.get("phase") != "Failed":
        return
    for entry in status.get("initContainerStatuses") or ():
        ended = (entry.get("state") or {}).get("terminated") or {}
        if code := ended.get("exitCode", 0):
            told = "".join(f": {words}" for words in _reason_in_words(ended))
            yield f"init container {entry['name']} ended with code {code}{told}"


def _end_in_words(status: Mapping[str, Any], ended: Mapping[str, Any] | None) -> Iterator[str]:
    """Why the pod or its trainer ended, beyond the exit code."""
    if status.get("phase") == "Failed":
        yield from _reason_in_words(status)
    yield from _failed_setups(status) if ended is None else _reason_in_words(ended)


def _reason_in_words(part: Mapping[str, Any]) -> Iterator[str]:
    """Reason and message of a pod's status or of a container's end, where they say something."""
    reason = part.get("reason", "")
    told = [reason if reason not in _QUIET_ENDS else "", (part.get("message") or "").strip()]
    if any(told):
        yield ": ".join(text for text in told if text)


def _mistakes(error: ValidationError) -> Iterator[str]:
    for mistake in error.errors(include_url=False):
        place = ".".join(str(part) for part in mistake["loc"]) or "document"
        shown = repr(mistake["input"])
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        yield f"{place}: {mistake['msg']}, got {shown}"
