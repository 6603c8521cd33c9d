"""What the trainer container is told through its environment, and where it finds its token.

Called by pod.py; the other end is `concertina_trainer.agent.settings`. Pure: no I/O, no clock.
"""

from collections.abc import Mapping
from typing import Any, Final

from concertina_api.v1alpha1 import AdaptiveTrainingJob, JobSpec

PREFIX: Final = "CONCERTINA_"
USER_VARIABLES: Final = frozenset({"CONCERTINA_LOG_LEVEL", "CONCERTINA_LOG_FORMAT"})
"""Variables with the prefix that a user may set."""
TOKEN_PATH: Final = "/var/run/secrets/concertina.dev"  # noqa: S105 - a folder, not a secret
"""Folder of the pod's token for the API server: token, ca.crt, namespace."""
RUN_PATH: Final = "/run/concertina"
"""Folder that a pod's agent and workers share: mailbox, logs, the job's document."""
MAX_DOCUMENT_BYTES: Final = 96 * 1024
"""A variable may have 128 KiB on Linux, name and metadata included."""

_FIELDS: Final = {
    "POD": "metadata.name",
    "UID": "metadata.uid",
    "NAMESPACE": "metadata.namespace",
    "HOST": "status.podIP",
}


def environment(
    job: Mapping[str, Any],
    spec: JobSpec,
    *,
    grace_seconds: int,
    metrics_port: int,
    newest_round: int = 0,
    log_format: str | None = None,
    shares_storage: bool = True,
) -> list[dict[str, Any]]:
    """The variables of the trainer container, as a container's `env`.

    `job` is the job's API object; `metrics_port` 0 serves none. `newest_round` is that of the
    membership, 0 when there is none yet: a pod that finds none after one knows that the job is gone,
    even if it was told to end before it could listen. `log_format` is the operator's own.
    `shares_storage`: whether checkpoints lie on a volume that all pods see.
    """
    values = {
        "SPEC": job_document(job, spec),
        "TOKEN": TOKEN_PATH,
        "RUN_DIR": RUN_PATH,
        "GRACE_SECONDS": str(grace_seconds),
        "METRICS_PORT": str(metrics_port),
        "ROUND": str(newest_round),
        "STORAGE": "Shared" if shares_storage else "Pod",
    }
    if log_format is not None:
        values["LOG_FORMAT"] = log_format
    fields = [
        {"name": f"{PREFIX}{name}", "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for name, path in _FIELDS.items()
    ]
    return fields + [{"name": f"{PREFIX}{name}", "value": text} for name, text in values.items()]


def job_document(job: Mapping[str, Any], spec: JobSpec) -> str:
    """The job as JSON, without pod template and status: all that a trainer needs to know."""
    metadata = {key: job["metadata"][key] for key in ("name", "namespace", "uid", "generation")}
    document = AdaptiveTrainingJob.model_validate({"metadata": metadata, "spec": _bare(spec)})
    text = document.model_dump_json(
        by_alias=True,
        include={"api_version": True, "kind": True, "metadata": set(metadata), "spec": True},
    )
    return _inert(text)


def spec_document(spec: JobSpec) -> str:
    """The part of the document that a user can make long."""
    return _inert(_bare(spec).model_dump_json(by_alias=True))


def _bare(spec: JobSpec) -> JobSpec:
    return spec.model_copy(update={"pods": spec.pods.model_copy(update={"template": {}})})


def _inert(text: str) -> str:
    """JSON in which the kubelet finds no $(VARIABLE) to replace."""
    return text.replace("$", "\\u0024")
