"""API paths of the kinds that the operator uses. Pure: no I/O, no clock.

`namespace=None` gives the path over all namespaces, which only lists and watches have.
"""

from typing import Final

GROUP: Final = "concertina.dev"
VERSION: Final = "v1alpha1"
JOBS: Final = "adaptivetrainingjobs"
MEMBERSHIPS: Final = "trainingmemberships"
REPORTS: Final = "trainingreports"


def pods(namespace: str | None, name: str | None = None) -> str:
    """Pods."""
    return _path("/api/v1", namespace, "pods", name)


def nodes() -> str:
    """Nodes, which are in no namespace."""
    return _path("/api/v1", None, "nodes", None)


def jobs(namespace: str | None, name: str | None = None) -> str:
    """AdaptiveTrainingJobs."""
    return _path(f"/apis/{GROUP}/{VERSION}", namespace, JOBS, name)


def job_status(namespace: str, name: str) -> str:
    """The status subresource of a job."""
    return f"{jobs(namespace, name)}/status"


def memberships(namespace: str | None, name: str | None = None) -> str:
    """TrainingMemberships."""
    return _path(f"/apis/{GROUP}/{VERSION}", namespace, MEMBERSHIPS, name)


def reports(namespace: str | None, name: str | None = None) -> str:
    """TrainingReports."""
    return _path(f"/apis/{GROUP}/{VERSION}", namespace, REPORTS, name)


def events(namespace: str) -> str:
    """Events for people."""
    return _path("/apis/events.k8s.io/v1", namespace, "events", None)


def role_bindings(namespace: str) -> str:
    """RoleBindings."""
    return _path("/apis/rbac.authorization.k8s.io/v1", namespace, "rolebindings", None)


def leases(namespace: str, name: str | None = None) -> str:
    """Leases for leader election."""
    return _path("/apis/coordination.k8s.io/v1", namespace, "leases", name)


def _path(group: str, namespace: str | None, plural: str, name: str | None) -> str:
    scope = f"/namespaces/{namespace}" if namespace is not None else ""
    return f"{group}{scope}/{plural}" + (f"/{name}" if name is not None else "")
