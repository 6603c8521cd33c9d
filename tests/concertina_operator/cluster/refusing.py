"""Ways in which a real API server refuses what belongs to a job."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.cluster.api import Api, ApiFailure, wait_for

NOWHERE = "https://127.0.0.1:1/"


@contextmanager
def quota(api: Api, namespace: str, *, pods: int) -> Iterator[None]:
    """No more pods than these in the namespace."""
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    api.create(path, {"metadata": {"name": "few"}, "spec": {"hard": {"pods": str(pods)}}})
    api.wait(f"{path}/few", lambda found: found.get("status", {}).get("hard"), "no quota")
    try:
        yield
    finally:
        api.delete(f"{path}/few")
        _until_taken(api, namespace)


@contextmanager
def dead_webhook(api: Api, namespace: str) -> Iterator[None]:
    """A webhook that must be asked about each pod of the namespace, and does not answer."""
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    webhook = {
        "name": "dead.example.com",
        "clientConfig": {"url": NOWHERE},
        "rules": [_pods_created()],
        "namespaceSelector": _only(namespace),
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "timeoutSeconds": 1,
        "admissionReviewVersions": ["v1"],
    }
    api.create(path, {"metadata": {"name": namespace}, "webhooks": [webhook]})
    try:
        _until_refused(api, namespace, "failed calling webhook")
        yield
    finally:
        api.delete(f"{path}/{namespace}")
        _until_taken(api, namespace)


@contextmanager
def forbidding_policy(api: Api, namespace: str) -> Iterator[None]:
    """A policy that lets no pod into the namespace."""
    group = "/apis/admissionregistration.k8s.io/v1"
    policies = f"{group}/validatingadmissionpolicies"
    bindings = f"{group}/validatingadmissionpolicybindings"
    policy = {
        "matchConstraints": {
            "resourceRules": [_pods_created()],
            "namespaceSelector": _only(namespace),
        },
        "validations": [{"expression": "false", "message": "no pod today"}],
    }
    api.create(policies, {"metadata": {"name": namespace}, "spec": policy})
    binding = {"policyName": namespace, "validationActions": ["Deny"]}
    api.create(bindings, {"metadata": {"name": namespace}, "spec": binding})
    try:
        _until_refused(api, namespace, "no pod today")
        yield
    finally:
        api.delete(f"{bindings}/{namespace}")
        api.delete(f"{policies}/{namespace}")
        _until_taken(api, namespace)


def why_refused(api: Api, namespace: str) -> str:
    """Why a pod would not be created now; empty when it would be."""
    pod = {
        "metadata": {"name": "tried"},
        "spec": {"containers": [{"name": "tried", "image": "x"}]},
    }
    try:
        api.create(f"/api/v1/namespaces/{namespace}/pods", pod, dryRun="All")
    except ApiFailure as failure:
        return failure.message
    return ""


def _pods_created() -> dict[str, Any]:
    return {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pods"],
    }


def _only(namespace: str) -> dict[str, Any]:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


def _until_refused(api: Api, namespace: str, words: str) -> None:
    wait_for(lambda: words in why_refused(api, namespace), lambda: f"pods are not refused: {words}")


def _until_taken(api: Api, namespace: str) -> None:
    wait_for(
        lambda: not why_refused(api, namespace),
        lambda: f"pods are still refused: {why_refused(api, namespace)}",
    )
