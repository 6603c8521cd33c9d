"""Who may do what: the rights of the operator, of the pods that train and of people, and no more.

Called by install.py; the operator of a whole cluster also creates `trainer_binding` in each
namespace that has jobs. Pure: no I/O, no clock. RBAC lets a trainer write reports; that it is the
report of its own pod is left to an admission policy (policies.py).
"""

from typing import Any, Final

from concertina_operator.cluster import paths

OPERATOR: Final = "concertina-operator"
"""Name of everything that the operator owns, its Lease included."""
TRAINER: Final = "concertina-trainer"
"""Name of the role of the pods that train, and of its bindings."""

_RBAC: Final = "rbac.authorization.k8s.io"


def operator_rights(*, namespace: str, jobs_in: str | None) -> list[dict[str, Any]]:
    """Roles and bindings of the operator that runs in `namespace`.

    It serves the jobs of `jobs_in`, or of all namespaces (None). Only in the latter case does it
    hand out rights itself: those of a trainer.
    """
    rules = [
        _allow(paths.GROUP, [paths.JOBS], ["get", "list", "watch", "delete"]),
        _allow(paths.GROUP, [f"{paths.JOBS}/status"], ["patch"]),
        _allow(paths.GROUP, [paths.MEMBERSHIPS], ["list", "watch", "create", "update"]),
        _allow(paths.GROUP, [paths.REPORTS], ["list", "watch"]),
        _allow("", ["pods"], ["get", "list", "watch", "create", "delete"]),
        _allow("events.k8s.io", ["events"], ["create"]),
    ]
    if jobs_in is None:
        rules += [
            _allow(_RBAC, ["rolebindings"], ["create"]),
            _allow(_RBAC, ["clusterroles"], ["bind"], names=[TRAINER]),
        ]
    leases = [
        _allow("coordination.k8s.io", ["leases"], ["create"]),
        _allow("coordination.k8s.io", ["leases"], ["get", "update"], names=[OPERATOR]),
    ]
    account = {"kind": "ServiceAccount", "name": OPERATOR, "namespace": namespace}
    lease_role = f"{OPERATOR}-lease"
    return [
        _role(OPERATOR, jobs_in, rules),
        _binding(OPERATOR, jobs_in, role=_kind(jobs_in, "Role"), subject=account),
        _role(lease_role, namespace, leases),
        _binding(lease_role, namespace, role="Role", subject=account),
    ]


def node_rights(*, namespace: str, jobs_in: str | None) -> list[dict[str, Any]]:
    """What the operator needs to read nodes; only given where it is told to.

    Nodes are in no namespace, so one that serves a single namespace has a role of the cluster for
    it too, named after where it runs: there may be several of them.
    """
    name = f"{OPERATOR}-nodes" if jobs_in is None else f"{OPERATOR}-nodes-{namespace}"
    account = {"kind": "ServiceAccount", "name": OPERATOR, "namespace": namespace}
    return [
        _role(name, None, [_allow("", ["nodes"], ["list", "watch"])]),
        _binding(name, None, role="ClusterRole", subject=account),
    ]


def trainer_rights(*, jobs_in: str | None) -> list[dict[str, Any]]:
    """The role of a trainer; for one namespace also its binding, else the operator binds it."""
    rules = [
        _allow(paths.GROUP, [paths.MEMBERSHIPS], ["get", "watch"]),
        _allow(paths.GROUP, [paths.REPORTS], ["create", "get", "patch"]),
    ]
    role = _role(TRAINER, None, rules)
    return [role] if jobs_in is None else [role, trainer_binding(jobs_in)]


def trainer_binding(namespace: str) -> dict[str, Any]:
    """Gives every service account of a namespace the rights of a trainer, there alone."""
    group = {"kind": "Group", "apiGroup": _RBAC, "name": f"system:serviceaccounts:{namespace}"}
    return _binding(TRAINER, namespace, role="ClusterRole", subject=group)


def user_rights() -> list[dict[str, Any]]:
    """What the viewers, editors and admins of a namespace may do with its jobs.

    Kubernetes adds it to its own roles of these names. Memberships and reports are for programs:
    people read them, whoever they are.
    """
    read = ["get", "list", "watch"]
    kinds = [paths.JOBS, f"{paths.JOBS}/scale", paths.MEMBERSHIPS, paths.REPORTS]
    write = ["create", "update", "patch", "delete", "deletecollection"]
    return [
        _added_to(("view", "edit", "admin"), [_allow(paths.GROUP, kinds, read)]),
        _added_to(
            ("edit", "admin"),
            [
                _allow(paths.GROUP, [paths.JOBS], write),
                _allow(paths.GROUP, [f"{paths.JOBS}/scale"], ["update", "patch"]),
            ],
        ),
    ]


def _added_to(roles: tuple[str, ...], rules: list[dict[str, Any]]) -> dict[str, Any]:
    """A role that Kubernetes adds to these roles of its own; the first gives it its name."""
    role = _role(f"concertina-{roles[0]}", None, rules)
    role["metadata"]["labels"] = {f"{_RBAC}/aggregate-to-{name}": "true" for name in roles}
    return role


def _role(name: str, namespace: str | None, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": _kind(namespace, "Role"),
        "metadata": _metadata(name, namespace),
        "rules": rules,
    }


def _binding(
    name: str, namespace: str | None, *, role: str, subject: dict[str, str]
) -> dict[str, Any]:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": _kind(namespace, "RoleBinding"),
        "metadata": _metadata(name, namespace),
        "roleRef": {"apiGroup": _RBAC, "kind": role, "name": name},
        "subjects": [subject],
    }


def _kind(namespace: str | None, kind: str) -> str:
    return kind if namespace is not None else f"Cluster{kind}"


def _metadata(name: str, namespace: str | None) -> dict[str, Any]:
    return {"name": name} | ({"namespace": namespace} if namespace is not None else {})


def _allow(
    group: str, resources: list[str], verbs: list[str], *, names: list[str] | None = None
) -> dict[str, Any]:
    rule: dict[str, Any] = {"apiGroups": [group], "resources": resources, "verbs": verbs}
    return rule | ({"resourceNames": names} if names else {})
