"""Everything that a plain installation consists of, as objects for the API server.

Called by `concertina install` and `uninstall`. Pure: no I/O, no clock. What trainers rely on (the
resource definitions, their rights and the admission policies) is apart from what the operator runs
on: jobs train on when only the latter is taken away.
"""

from collections.abc import Sequence
from typing import Any, Final

from concertina_operator.cluster.crd import custom_resource_definitions
from concertina_operator.cluster.policies import admission_policies
from concertina_operator.cluster.rights import (
    OPERATOR,
    node_rights,
    operator_rights,
    trainer_rights,
    user_rights,
)

NAMESPACE: Final = "concertina-system"
NUM_REPLICAS: Final = 2
GRACE_SECONDS: Final = 30
HEALTH_PORT: Final = 8080

_USER: Final = 65532
"""An account that no image gives rights to."""


def install_objects(
    *,
    image: str,
    namespace: str = NAMESPACE,
    jobs_in: str | None = None,
    notice_taints: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """All objects in the order to apply them.

    `namespace` is where the operator runs; it serves the jobs of `jobs_in`, or of all namespaces.
    A namespace that has jobs in it must exist, and is not among the objects. `notice_taints` are
    keys of taints that are notices beside the known ones (notices.py); with None nodes are not
    watched.
    """
    return [
        *([_namespace(namespace)] if namespace != jobs_in else []),
        *trainer_objects(jobs_in=jobs_in),
        *operator_objects(
            image=image, namespace=namespace, jobs_in=jobs_in, notice_taints=notice_taints
        ),
    ]


def trainer_objects(*, jobs_in: str | None = None) -> list[dict[str, Any]]:
    """What jobs, their pods and their users need: it outlasts an operator that is taken away.

    What fences the rights of a trainer comes before them, and goes after them.
    """
    return [
        *admission_policies(),
        *custom_resource_definitions(),
        *user_rights(),
        *trainer_rights(jobs_in=jobs_in),
    ]


def operator_objects(
    *,
    image: str,
    namespace: str = NAMESPACE,
    jobs_in: str | None = None,
    notice_taints: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """What the operator needs, and the operator itself at the end."""
    arguments = [
        *("--port", str(HEALTH_PORT)),
        *(("--namespace", jobs_in) if jobs_in else ()),
        *(("--watch-nodes",) if notice_taints is not None else ()),
        *(part for key in notice_taints or () for part in ("--notice-taint", key)),
    ]
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": _metadata(namespace),
            "automountServiceAccountToken": False,
        },
        *operator_rights(namespace=namespace, jobs_in=jobs_in),
        *(node_rights(namespace=namespace, jobs_in=jobs_in) if notice_taints is not None else ()),
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": _metadata(namespace),
            "spec": {"minAvailable": 1, "selector": {"matchLabels": _labels()}},
        },
        _deployment(image=image, namespace=namespace, arguments=arguments),
    ]


def _namespace(name: str) -> dict[str, Any]:
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": level | _labels()},
    }


def _deployment(*, image: str, namespace: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Two replicas, of which one leads, on two machines if there are two."""
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        # Each version is spread by itself: old pods, which go, do not count.
        "matchLabelKeys": ["pod-template-hash"],
        "labelSelector": {"matchLabels": _labels()},
    }
    pod = {
        "serviceAccountName": OPERATOR,
        "automountServiceAccountToken": True,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [spread],
        "containers": [_container(image=image, arguments=arguments)],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(namespace),
        "spec": {
            "replicas": NUM_REPLICAS,
            "selector": {"matchLabels": _labels()},
            "template": {"metadata": {"labels": _labels()}, "spec": pod},
        },
    }


def _container(*, image: str, arguments: Sequence[str]) -> dict[str, Any]:
    return {
        "name": "operator",
        "image": image,
        "command": ["python3", "-m", "concertina_operator.cluster"],
        "args": list(arguments),
        "ports": [{"name": "health", "containerPort": HEALTH_PORT}],
        "livenessProbe": _probe("/healthz", period_seconds=10),
        "readinessProbe": _probe("/readyz", period_seconds=5),
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }


def _probe(path: str, *, period_seconds: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "health"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 5,
    }


def _metadata(namespace: str) -> dict[str, Any]:
    return {"name": OPERATOR, "namespace": namespace, "labels": _labels()}


def _labels() -> dict[str, str]:
    return {"app.kubernetes.io/name": OPERATOR}
