"""API objects of a job as a cluster returns them, with fields that a test overrides."""

from datetime import datetime, timedelta
from typing import Any

from concertina_api.v1alpha1 import (
    JobSpec,
    Membership,
    Report,
    TrainingMembership,
    TrainingReport,
)
from concertina_operator.cluster.pod import build_pod
from concertina_operator.commands.live import LiveJob
from tests.concertina_operator.cluster.templates import a_container
from tests.concertina_operator.factories import START, a_spec

NOW = START + timedelta(minutes=5)
UID = "job-uid"


def stamp(moment: datetime = START) -> str:
    """A time as Kubernetes writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def a_trained_spec(**fields: Any) -> JobSpec:
    """A job with a template of one container."""
    pods = {"max": 4, "allowed": [1, 2, 4], "template": {"spec": {"containers": [a_container()]}}}
    return a_spec(**{"pods": pods, **fields})


def a_job_document(
    spec: JobSpec | None = None, *, name: str = "tiny-lm", status: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The job `tiny-lm` in the namespace `ml`."""
    return {
        "apiVersion": "concertina.dev/v1alpha1",
        "kind": "AdaptiveTrainingJob",
        "metadata": {
            "name": name,
            "namespace": "ml",
            "uid": UID,
            "generation": 1,
            "resourceVersion": "7",
            "creationTimestamp": stamp(),
        },
        "spec": (spec or a_trained_spec()).model_dump(
            mode="json", by_alias=True, exclude_unset=True
        ),
        "status": status or {},
    }


def a_pod_document(index: int = 0, *, spec: JobSpec | None = None, **status: Any) -> dict[str, Any]:
    """The running pod `tiny-lm-<index>` with uid `uid-<index>` on the node `node-<index>`."""
    document = build_pod(a_job_document(), spec or a_trained_spec(), name=f"tiny-lm-{index}")
    document["metadata"] |= {
        "uid": f"uid-{index}",
        "creationTimestamp": stamp(START + timedelta(seconds=index)),
        "resourceVersion": "7",
    }
    document["spec"]["nodeName"] = f"node-{index}"
    document["status"] = {"phase": "Running"} | status
    return document


def a_membership_document(membership: Membership) -> dict[str, Any]:
    """The membership of `tiny-lm`."""
    document = TrainingMembership(spec=membership).model_dump(mode="json", by_alias=True)
    owner = {"kind": "AdaptiveTrainingJob", "name": "tiny-lm", "uid": UID, "controller": True}
    document["metadata"] = {
        "name": "tiny-lm",
        "namespace": "ml",
        "resourceVersion": "7",
        "ownerReferences": [owner],
    }
    return document


def a_report_document(report: Report) -> dict[str, Any]:
    """The report of its pod."""
    document = TrainingReport(spec=report).model_dump(mode="json", by_alias=True)
    document["metadata"] = {"name": report.pod, "namespace": "ml", "resourceVersion": "7"}
    return document


def a_live_job(*pods: dict[str, Any], **fields: Any) -> LiveJob:
    """The job with these pods and nothing else, unless it is given."""
    defaults: dict[str, Any] = {"job": a_job_document(), "membership": None, "reports": ()}
    return LiveJob(pods=pods, **(defaults | fields))
