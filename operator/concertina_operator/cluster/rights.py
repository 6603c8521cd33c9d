"""Who may do what: the rights of the operator and of the pods that train, and no more.

Called by install.py; the operator of a whole cluster also creates `trainer_binding` in each
namespace that has jobs. Pure: no I/O, no clock. RBAC lets a trainer write reports; that it is the
report of its own pod, and nothing that could hold an object back, is left to an admission policy,
which knows the pod from the token.
"""

from typing import Any, Final

from concertina_operator.cluster import paths

OPERATOR: Final = "concertina-operator"
"""Name of everything that the operator owns, its Lease included."""
TRAINER: Final = "concertina-trainer"
"""Name of the role of the pods that train, and of its bindings."""
POLICY: Final = "concertina-own-report"

_RBAC: Final = "rbac.authorization.k8s.io"
_ADMISSION: Final = "admissionregistration.k8s.io/v1"


def operator_rights(*, namespace: str, jobs_in: str | None) -> list[dict[str, Any]]:
    """Roles and bindings of the operator that runs in `namespace`.

    It serves the jobs of `jobs_in`, or of all namespaces (None). Only in the latter case does it
    hand out rights itself: those of a trainer.
    """
    rules = [
        _allow(paths.GROUP, [paths.JOBS], ["get", "list", "watch", "delete"]),
        _allow(paths.GROUP, [f"{paths.JOBS}/status"], ["patch"]),
        _allow(paths.GROUP, [paths.MEMBERSHIPS], ["get", "list", "watch", "create", "update"]),
        _allow(paths.GROUP, [paths.REPORTS], ["get", "list", "watch"]),
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


def report_policy() -> list[dict[str, Any]]:
    """A trainer writes only the report of its own pod, and nothing into it that outlives the pod.

    It binds whoever has the rights of a trainer, so not the garbage collector, which takes owners
    off reports.
    """
    own = "object.metadata.ownerReferences"
    extra = "request.userInfo.?extra[?'authentication.kubernetes.io/pod-{}'].orValue([''])[0]"
    policy = {
        "apiVersion": _ADMISSION,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": POLICY},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [paths.GROUP],
                        "apiVersions": ["*"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": [paths.REPORTS],
                    }
                ]
            },
            "matchConditions": [
                {
                    "name": "trainer",
                    "expression": "('system:serviceaccounts:' + request.namespace)"
                    " in request.userInfo.groups",
                }
            ],
            "variables": [
                {"name": "pod", "expression": extra.format("name")},
                {"name": "uid", "expression": extra.format("uid")},
            ],
            "validations": [
                {
                    "expression": "variables.pod != '' && object.metadata.name == variables.pod",
                    "message": "a pod writes only its own report",
                    "messageExpression": "'a pod writes only its own report: this is '"
                    " + object.metadata.name + ', the token is of '"
                    " + (variables.pod == '' ? 'no pod' : variables.pod)",
                    "reason": "Forbidden",
                },
                {
                    "expression": "object.spec.uid == variables.uid",
                    "message": "a report tells the uid of the pod that writes it",
                    "reason": "Forbidden",
                },
                {
                    "expression": f"has({own}) && size({own}) == 1 && {own}[0].apiVersion == 'v1'"
                    f" && {own}[0].kind == 'Pod' && {own}[0].name == variables.pod"
                    f" && {own}[0].uid == variables.uid",
                    "message": "a report is owned by its pod alone",
                    "reason": "Forbidden",
                },
                {
                    "expression": "!has(object.metadata.finalizers)"
                    " || size(object.metadata.finalizers) == 0",
                    "message": "a report has no finalizers",
                    "reason": "Forbidden",
                },
            ],
        },
    }
    binding = {
        "apiVersion": _ADMISSION,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": POLICY},
        "spec": {"policyName": POLICY, "validationActions": ["Deny"]},
    }
    return [policy, binding]


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


def _metadata(name: str, namespace: str | None) -> dict[str, str]:
    return {"name": name} | ({"namespace": namespace} if namespace is not None else {})


def _allow(
    group: str, resources: list[str], verbs: list[str], *, names: list[str] | None = None
) -> dict[str, Any]:
    rule: dict[str, Any] = {"apiGroups": [group], "resources": resources, "verbs": verbs}
    return rule | ({"resourceNames": names} if names else {})
