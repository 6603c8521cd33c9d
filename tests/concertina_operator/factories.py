"""Builds the facts that a plan is computed from, with defaults that a test overrides."""

from datetime import UTC, datetime, timedelta
from typing import Any

from concertina_api.v1alpha1 import (
    AdaptiveTrainingJob,
    BatchSizeRequest,
    JobSpec,
    Member,
    Membership,
    PodPhase,
    Report,
)
from concertina_operator.acceptance import Standing
from concertina_operator.observed import Phase, PodFacts

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """A moment, in seconds after the start of the test."""
    return START + timedelta(seconds=seconds)


def a_spec(
    *,
    pods: dict[str, Any] | None = None,
    batch: dict[str, Any] | None = None,
    scaling: dict[str, Any] | None = None,
    **fields: Any,
) -> JobSpec:
    """A job of micro-batches of 8 samples, at most 4 of them on a worker, sizes 1, 2 and 4."""
    return JobSpec.model_validate(
        {
            "model": "package.module:task",
            "samples": 100_000,
            "batch": {"microBatchSize": 8, "initial": 32, "max": 512, "maxAccumulation": 4}
            | (batch or {}),
            "pods": {"min": 1, "max": 4, "allowed": [1, 2, 4]} if pods is None else pods,
            "scaling": {"scaleUpCooldownSeconds": 60, "scaleDownCooldownSeconds": 300}
            | (scaling or {}),
        }
        | fields
    )


def a_job(spec: JobSpec | None = None, **status: Any) -> AdaptiveTrainingJob:
    """The job `tiny-lm` with this spec and these fields of its status."""
    return AdaptiveTrainingJob.model_validate(
        {
            "metadata": {"name": "tiny-lm", "uid": "job-uid", "generation": 1},
            "spec": spec or a_spec(),
            "status": status,
        }
    )


def a_pod(index: int = 0, **facts: Any) -> PodFacts:
    """The running pod `tiny-lm-<index>` with uid `uid-<index>`."""
    defaults: dict[str, Any] = {
        "name": f"tiny-lm-{index}",
        "uid": f"uid-{index}",
        "created": START,
        "phase": Phase.RUNNING,
    }
    return PodFacts(**(defaults | facts))


def a_report(index: int = 0, **fields: Any) -> Report:
    """The report of the pod `tiny-lm-<index>`: warm, and with a store to offer."""
    defaults: dict[str, Any] = {
        "pod": f"tiny-lm-{index}",
        "uid": f"uid-{index}",
        "incarnation": f"i{index}",
        "phase": PodPhase.WARM,
        "host": f"10.0.0.{index}",
        "port": 4000 + index,
    }
    return Report.model_validate(defaults | fields)


def a_member(index: int = 0, **fields: Any) -> Member:
    """The pod `tiny-lm-<index>` as its report describes it."""
    defaults: dict[str, Any] = {
        "pod": f"tiny-lm-{index}",
        "uid": f"uid-{index}",
        "incarnation": f"i{index}",
        "host": f"10.0.0.{index}",
        "port": 4000 + index,
    }
    return Member.model_validate(defaults | fields)


def a_request(sequence: int = 1, *, effective: int = 64, **fields: Any) -> BatchSizeRequest:
    """A request for `effective` samples."""
    defaults: dict[str, Any] = {
        "sequence": sequence,
        "requested": effective,
        "effective": effective,
        "reason": "the rule says so",
    }
    return BatchSizeRequest.model_validate(defaults | fields)


def a_membership(number: int = 1, *indices: int, **fields: Any) -> Membership:
    """Round `number` of the pods with these indices."""
    members = tuple(a_member(index) for index in indices)
    return Membership.model_validate({"round": number, "members": members} | fields)


def a_standing(index: int = 0, *, pod: dict[str, Any] | None = None, **report: Any) -> Standing:
    """The pod `tiny-lm-<index>` and its report."""
    return Standing(pod=a_pod(index, **(pod or {})), report=a_report(index, **report))
