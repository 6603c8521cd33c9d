"""Which rights accounts have by the rules of an installation, and which they used by the audit log.

Pure: called by test_rights_used.py and by the tests of the chart, once the accounts have worked.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from concertina_operator.cluster.rights import OPERATOR, trainer_binding

ACCOUNT = "system:serviceaccount:"
POD_NAME = "authentication.kubernetes.io/pod-name"
"""What the API server tells of a token that is bound to a pod."""
EVERYBODY = {"authentication.k8s.io", "authorization.k8s.io"}
"""Groups in which everybody may ask about himself."""


class Scope(StrEnum):
    """Where an account may do something, seen from its own namespace."""

    EVERYWHERE = "everywhere"
    OWN = "in its namespace"
    OTHER = "in another namespace"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Right:
    """One verb on one resource: granted by a rule, or used by a request."""

    verb: str
    resource: str
    """With its subresource: `pods/log`."""
    group: str = ""
    name: str = ""
    """The only object; empty for all of them."""
    scope: Scope = Scope.EVERYWHERE

    def covers(self, use: "Right") -> bool:
        """Whether who has this right may do that."""
        same = (self.verb, self.resource, self.group) == (use.verb, use.resource, use.group)
        return same and self.name in ("", use.name) and self.scope in (Scope.EVERYWHERE, use.scope)

    def is_needed_for(self, use: "Right") -> bool:
        """Whether it covers the use, which a right within one namespace would not do instead."""
        return self.covers(use) and (self.scope is Scope.OWN) == (use.scope is Scope.OWN)


def granted(objects: Iterable[Mapping[str, Any]], *, account: str = OPERATOR) -> set[Right]:
    """What an installation of these objects lets an account of its do."""
    return set(_granted(list(objects), subject=account))


def granted_to_trainers(objects: Iterable[Mapping[str, Any]]) -> set[Right]:
    """What it lets trainers do in a namespace with a job, where the operator binds their role."""
    binding = trainer_binding("jobs")
    (subject,) = binding["subjects"]
    return set(_granted([*objects, binding], subject=subject["name"]))


def used(events: Iterable[Mapping[str, Any]], *, account: str = OPERATOR) -> set[Right]:
    """What accounts of this name asked the API server for, whatever their namespace."""
    return {use for name, _, use in _uses(events) if name == account}


def used_by_trainers(events: Iterable[Mapping[str, Any]]) -> set[Right]:
    """What all pods but the installation's own asked for."""
    return {use for name, is_pod, use in _uses(events) if is_pod and not name.startswith(OPERATOR)}


def unused(rights: Iterable[Right], uses: Iterable[Right]) -> set[Right]:
    """The rights without which everything could have been done all the same."""
    done = set(uses)
    return {right for right in rights if not any(right.is_needed_for(use) for use in done)}


def not_granted(uses: Iterable[Right], rights: Iterable[Right]) -> set[Right]:
    """What was asked for without a right to it."""
    given = set(rights)
    return {use for use in uses if not any(right.covers(use) for right in given)}


def _granted(objects: list[Mapping[str, Any]], *, subject: str) -> Iterator[Right]:
    roles = {
        (entry["kind"], entry["metadata"].get("namespace", ""), entry["metadata"]["name"]): entry
        for entry in objects
        if entry["kind"] in ("Role", "ClusterRole")
    }
    for binding in objects:
        for bound in binding.get("subjects", ()):
            if bound["name"] != subject:
                continue
            reference, namespace = binding["roleRef"], binding["metadata"].get("namespace", "")
            place = namespace if reference["kind"] == "Role" else ""
            role = roles[reference["kind"], place, reference["name"]]
            own = bound.get("namespace") or subject.rpartition(":")[2]
            for rule in role["rules"]:
                for right in _rights(rule):
                    yield replace(right, scope=_scope(namespace, own=own))


def _scope(namespace: str, *, own: str) -> Scope:
    if not namespace:
        return Scope.EVERYWHERE
    return Scope.OWN if namespace == own else Scope.OTHER


def _rights(rule: Mapping[str, Any]) -> Iterator[Right]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                for name in rule.get("resourceNames", [""]):
                    yield Right(verb=verb, resource=resource, group=group, name=name)


def _uses(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, bool, Right]]:
    """Account, whether its token is of a pod, and what was asked for, of each request."""
    for event in events:
        user, asked = event["user"], event.get("objectRef")
        # Who is not known yet has no name, such as one whose request was too much.
        if asked is None or not user.get("username", "").startswith(ACCOUNT):
            continue
        own, account = user["username"].removeprefix(ACCOUNT).split(":")
        if own == "kube-system" or asked.get("apiGroup") in EVERYBODY:
            continue
        parts = (asked["resource"], asked.get("subresource"))
        use = Right(
            verb=event["verb"],
            resource="/".join(part for part in parts if part),
            group=asked.get("apiGroup", ""),
            name=asked.get("name", ""),
            scope=_scope(asked.get("namespace", ""), own=own),
        )
        yield account, POD_NAME in user.get("extra", {}), use
