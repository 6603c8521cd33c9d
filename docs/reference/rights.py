"""Who may do what in a cluster: tables from the rights and the policies that are installed.

Called by pages.py. Pure.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from concertina_operator.cluster.install import NAMESPACE
from concertina_operator.cluster.policies import admission_policies
from concertina_operator.cluster.rights import (
    node_rights,
    operator_rights,
    trainer_rights,
    user_rights,
)
from docs.reference.markdown import code, codes, page, table

Document = Mapping[str, Any]

_INTRODUCTION: Final = """\
`concertina install` and the Helm chart install these rights and no others.
[Security](../operate/security.md) says what they are for."""
_EXAMPLE: Final = "team"
"""A namespace whose jobs alone are served."""


def rights_page() -> str:
    """The whole page."""
    return page(
        "Rights",
        _INTRODUCTION,
        "## The operator, for all namespaces",
        _roles(operator_rights(namespace=NAMESPACE, jobs_in=None)),
        "It creates RoleBindings to one ClusterRole, that of the trainers, and to no other:"
        " `bind` is allowed on that name alone.",
        "## The operator, for one namespace",
        f"With `--jobs-in {_EXAMPLE}`; nothing in it is cluster-wide.",
        _roles(operator_rights(namespace=NAMESPACE, jobs_in=_EXAMPLE)),
        "## The operator, with the node watch",
        "Only with `--watch-nodes`, beside the others: nodes are in no namespace.",
        _roles(node_rights(namespace=NAMESPACE, jobs_in=None)),
        "## Pods that train",
        "Bound in each namespace that has jobs, to all service accounts of that namespace.",
        _roles(trainer_rights(jobs_in=None)),
        "## People",
        "Kubernetes adds these to its own roles `view`, `edit` and `admin`.",
        _roles(user_rights()),
        "## Admission policies",
        "The API server itself refuses what these say, and refuses as well when it cannot evaluate"
        " them.",
        table(("policy", "on", "what must hold"), _policies()),
    )


def _roles(documents: Iterable[Document]) -> str:
    rows = [
        (
            f"{document['kind']} {code(document['metadata']['name'])}",
            ", ".join(_resources(rule)),
            codes(rule["verbs"]),
        )
        for document in documents
        for rule in document.get("rules", ())
    ]
    return table(("role", "resources", "verbs"), rows)


def _resources(rule: Document) -> Iterable[str]:
    """Resources with their group, and the one name that a rule is about, if it is."""
    (group,) = rule["apiGroups"]
    names = f" named {codes(rule['resourceNames'])}" if "resourceNames" in rule else ""
    return [code(f"{name}.{group}" if group else name) + names for name in rule["resources"]]


def _policies() -> Iterable[tuple[str, str, str]]:
    for document in admission_policies():
        if document["kind"] != "ValidatingAdmissionPolicy":
            continue
        spec = document["spec"]
        (rule,) = spec["matchConstraints"]["resourceRules"]
        verbs = " and ".join(rule["operations"]).lower()
        refusals = "; ".join(entry["message"] for entry in spec["validations"])
        yield code(document["metadata"]["name"]), f"{verbs} of {codes(rule['resources'])}", refusals
