"""Builds the pod of a job from its template: what the user wrote, and what a trainer needs.

Called by apply.py for every pod that a plan creates, and by the reconcile for the dry run that
finds a bad template early. Nothing that the user set is changed; what contradicts the operator is
a fault (template.py), not a surprise. Equal inputs give equal pods. Pure: no I/O, no clock.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Final

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import API_VERSION, PROTOCOL, JobSpec
from concertina_operator.cluster.avoidance import kept_off
from concertina_operator.cluster.durability import shares_storage
from concertina_operator.cluster.environment import RUN_PATH, TOKEN_PATH, environment
from concertina_operator.cluster.template import (
    DOMAIN,
    VOLUME_PREFIX,
    Container,
    Template,
    grace_after_hook,
    read_template,
    template_faults,
    template_hash,
    without_nulls,
)
from concertina_operator.grace import DEFAULT_GRACE_SECONDS

JOB_LABEL: Final = f"{DOMAIN}/job"
"""Label of every pod of a job: the job's name."""
PROTOCOL_ANNOTATION: Final = f"{DOMAIN}/protocol"
"""Version of the messages that the operator spoke when it built the pod."""
TEMPLATE_ANNOTATION: Final = f"{DOMAIN}/template-hash"
"""Which template the pod was built from."""
TRAINER_ANNOTATION: Final = f"{DOMAIN}/trainer"
"""Name of the container that trains, which injected containers leave as it is."""
AVOIDS_ANNOTATION: Final = f"{DOMAIN}/avoids"
"""Nodes that the operator has kept the pod off, because pods were lost there again and again."""

AGENT_COMMAND: Final = ("python3", "-m", "concertina_trainer.agent")
TOKEN_SECONDS: Final = 3600
"""The kubelet replaces a token before it is this old."""
METRICS_PORT_NAME: Final = "metrics"
FIRST_METRICS_PORT: Final = 9464

_TOKEN: Final = {
    "projected": {
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
            {
                "configMap": {
                    "name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }
            },
            {
                "downwardAPI": {
                    "items": [
                        {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
                    ]
                }
            },
        ]
    }
}
"""What the kubelet keeps at TOKEN_PATH; the folder that every pod has by itself looks the same."""
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - where POSIX shared memory is
_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"


def build_pod(
    job: Mapping[str, Any],
    spec: JobSpec,
    *,
    name: str,
    newest_round: int = 0,
    log_format: str | None = None,
    avoid: Sequence[str] = (),
) -> dict[str, Any]:
    """The pod object to create; `job` is the job's API object. Raises InvalidJob for any fault.

    `newest_round`, `log_format`: see `environment`; what the template sets of it counts. `avoid`
    are nodes that it must not be placed on.
    """
    if faults := template_faults(spec):
        raise InvalidJob("; ".join(faults))
    template = read_template(spec)
    trainer = template.spec.trainer
    assert trainer is not None
    pod = without_nulls(spec.pods.template["spec"])
    pod["restartPolicy"] = "Never"
    grace = pod.setdefault("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
    pod["securityContext"] = {
        "seccompProfile": {"type": "RuntimeDefault"},
        **pod.get("securityContext", {}),
    }
    if avoid:
        pod["affinity"] = kept_off(pod.get("affinity"), avoid)
    # The trainer gets a token of its own; nobody else in the pod needs one.
    pod.setdefault("automountServiceAccountToken", False)
    volumes = _volumes(template, trainer)
    pod["volumes"] = [*pod.get("volumes", []), *(volume for volume, _ in volumes)]
    port = _metrics_port(template, trainer)
    for container in pod["containers"]:
        if container["name"] == trainer.name:
            left = grace_after_hook(grace, lifecycle=trainer.lifecycle)
            variables = environment(
                job,
                spec,
                grace_seconds=left,
                metrics_port=port,
                newest_round=newest_round,
                log_format=log_format,
                shares_storage=shares_storage(spec),
            )
            own = container.get("env", [])
            chosen = {variable["name"] for variable in own}
            container["env"] = [*(v for v in variables if v["name"] not in chosen), *own]
            mounts = (mount for _, mount in volumes)
            container["volumeMounts"] = [*container.get("volumeMounts", []), *mounts]
            _complete(container, trainer, metrics_port=port)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(job, spec, template, name=name, trainer=trainer.name, avoid=avoid),
        "spec": pod,
    }


def _metadata(
    job: Mapping[str, Any],
    spec: JobSpec,
    template: Template,
    *,
    name: str,
    trainer: str,
    avoid: Sequence[str],
) -> dict[str, Any]:
    owner = job["metadata"]
    return {
        "name": name,
        "namespace": owner["namespace"],
        "labels": {**template.metadata.labels, JOB_LABEL: owner["name"]},
        "annotations": {
            _DEFAULT_CONTAINER: trainer,
            **template.metadata.annotations,
            PROTOCOL_ANNOTATION: str(PROTOCOL),
            TEMPLATE_ANNOTATION: template_hash(spec),
            TRAINER_ANNOTATION: trainer,
            **({AVOIDS_ANNOTATION: ",".join(avoid)} if avoid else {}),
        },
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": "AdaptiveTrainingJob",
                "name": owner["name"],
                "uid": owner["uid"],
                "controller": True,
                # True would ask the operator for a right on the job's finalizers.
                "blockOwnerDeletion": False,
            }
        ],
    }


def _complete(container: dict[str, Any], trainer: Container, *, metrics_port: int) -> None:
    """Adds command, port and readiness probe where the user has none."""
    if not trainer.command:
        container["command"] = list(AGENT_COMMAND)
    if not metrics_port:
        return
    if all(port.name != METRICS_PORT_NAME for port in trainer.ports):
        added = {"name": METRICS_PORT_NAME, "containerPort": metrics_port, "protocol": "TCP"}
        container["ports"] = [*container.get("ports", []), added]
    container.setdefault(
        "readinessProbe",
        {
            "httpGet": {"path": "/readyz", "port": METRICS_PORT_NAME},
            "periodSeconds": 5,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
    )


def _metrics_port(template: Template, trainer: Container) -> int:
    """The trainer's port named metrics, else a free one; 0 where a free one cannot be known."""
    for port in trainer.ports:
        if port.name == METRICS_PORT_NAME:
            return port.container_port
    if template.spec.host_network:
        return 0
    everybody: Iterable[Container] = (*template.spec.containers, *template.spec.init_containers)
    taken = {port.container_port for container in everybody for port in container.ports}
    return next(number for number in count(FIRST_METRICS_PORT) if number not in taken)


def _volumes(template: Template, trainer: Container) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Volumes that the operator adds, each with its mount in the trainer container."""
    volumes = [_volume("token", _TOKEN, path=TOKEN_PATH, readOnly=True)]
    if not trainer.mounts_at(RUN_PATH):
        volumes.append(_volume("run", {"emptyDir": {}}, path=RUN_PATH))
    if not (trainer.mounts_at(_SHARED_MEMORY) or template.spec.host_ipc):
        volumes.append(_volume("shm", {"emptyDir": {"medium": "Memory"}}, path=_SHARED_MEMORY))
    return volumes


def _volume(
    name: str, source: Mapping[str, Any], *, path: str, **options: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    full = f"{VOLUME_PREFIX}{name}"
    return {"name": full, **source}, {"name": full, "mountPath": path, **options}
