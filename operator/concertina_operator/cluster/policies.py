"""What the API server refuses by looking at who asks, or at what a schema cannot see into.

Called by install.py. Pure data: admission policies in CEL, beside the rules of the resource
definitions (rules.py) and the rights of RBAC (rights.py). A policy takes effect moments after it
is stored.
"""

from typing import Any, Final

from concertina_operator.cluster import paths
from concertina_operator.cluster.rules import STARTED

REPORT_POLICY: Final = "concertina-own-report"
CONFIG_POLICY: Final = "concertina-fixed-config"
MAX_METADATA: Final = 16 * 1024
"""Characters of a report's labels, annotations, field managers and so on: no schema bounds them."""

_API: Final = "admissionregistration.k8s.io/v1"


def admission_policies() -> list[dict[str, Any]]:
    """All of them, each with the binding that puts it in force everywhere."""
    return [*_bound(_own_report()), *_bound(_fixed_config())]


def _own_report() -> dict[str, Any]:
    """A trainer writes only the report of its own pod, a small one that goes with the pod.

    It binds whoever has the rights of a trainer, so not the garbage collector, which takes owners
    off reports.
    """
    own = "object.metadata.ownerReferences"
    extra = "request.userInfo.?extra[?'authentication.kubernetes.io/pod-{}'].orValue([''])[0]"
    validations = [
        {
            "expression": "variables.pod != '' && object.metadata.name == variables.pod",
            "message": "a pod writes only its own report",
            "messageExpression": "'a pod writes only its own report: this is '"
            " + object.metadata.name + ', the token is of '"
            " + (variables.pod == '' ? 'no pod' : variables.pod)",
        },
        {
            "expression": "object.spec.uid == variables.uid",
            "message": "a report tells the uid of the pod that writes it",
        },
        {
            "expression": f"has({own}) && size({own}) == 1 && {own}[0].apiVersion == 'v1'"
            f" && {own}[0].kind == 'Pod' && {own}[0].name == variables.pod"
            f" && {own}[0].uid == variables.uid",
            "message": "a report is owned by its pod alone",
        },
        {
            "expression": "!has(object.metadata.finalizers)"
            " || size(object.metadata.finalizers) == 0",
            "message": "a report has no finalizers",
        },
        {
            "expression": f"variables.length <= {MAX_METADATA}",
            "message": f"the metadata of a report has at most {MAX_METADATA} characters",
            "messageExpression": f"'the metadata of a report has at most {MAX_METADATA} characters:"
            " this one has ' + string(variables.length)",
        },
    ]
    return _policy(
        REPORT_POLICY,
        resource=paths.REPORTS,
        operations=["CREATE", "UPDATE"],
        condition={
            "name": "trainer",
            "expression": "('system:serviceaccounts:' + request.namespace)"
            " in request.userInfo.groups",
        },
        variables=[
            {"name": "pod", "expression": extra.format("name")},
            {"name": "uid", "expression": extra.format("uid")},
            {"name": "length", "expression": "size('%s'.format([object.metadata]))"},
        ],
        validations=[{**entry, "reason": "Forbidden"} for entry in validations],
    )


def _fixed_config() -> dict[str, Any]:
    """The settings of a job that has started stay as they are, to the last key."""
    old, new = (f"{name}.spec.?config.orValue({{}})" for name in ("oldObject", "object"))
    return _policy(
        CONFIG_POLICY,
        resource=paths.JOBS,
        operations=["UPDATE"],
        condition={"name": "started", "expression": STARTED.format("oldObject")},
        validations=[
            {
                "expression": f"{new} == {old}",
                "message": "spec.config is fixed once the job has started",
                "reason": "Invalid",
            }
        ],
    )


def _policy(
    name: str,
    *,
    resource: str,
    operations: list[str],
    condition: dict[str, str],
    validations: list[dict[str, str]],
    variables: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    """A policy on one kind; it refuses as well when it cannot be evaluated."""
    rule = {
        "apiGroups": [paths.GROUP],
        "apiVersions": ["*"],
        "operations": operations,
        "resources": [resource],
    }
    return {
        "apiVersion": _API,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule]},
            "matchConditions": [condition],
            **({"variables": variables} if variables else {}),
            "validations": validations,
        },
    }


def _bound(policy: dict[str, Any]) -> list[dict[str, Any]]:
    name = policy["metadata"]["name"]
    binding = {
        "apiVersion": _API,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    return [policy, binding]
