"""Installs what jobs need on a test cluster, and speaks to it as a pod does."""

import base64
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from concertina_operator.cluster.policies import REPORT_POLICY
from concertina_operator.cluster.rights import trainer_binding
from tests.cluster.api import APPLY_PATCH, Api, ApiFailure, has_condition, wait_for
from tests.cluster.certificates import write_kubeconfig
from tests.cluster.cluster import Cluster

GROUP = "/apis/concertina.dev/v1alpha1"


def path_of(entry: dict[str, Any]) -> str:
    version, kind, metadata = entry["apiVersion"], entry["kind"].lower(), entry["metadata"]
    group = f"/apis/{version}" if "/" in version else f"/api/{version}"
    scope = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    return f"{group}{scope}/{plural}/{metadata['name']}"


def apply_all(api: Api, objects: Iterable[dict[str, Any]]) -> None:
    """Every object, as it is written down and not a field more."""
    for entry in objects:
        api.call(
            "PATCH",
            path_of(entry),
            entry,
            content_type=APPLY_PATCH,
            fieldManager="test",
            force="true",
            fieldValidation="Strict",
        )
        if entry["kind"] == "CustomResourceDefinition":
            api.wait(path_of(entry), has_condition("Established"), "not established")


def wait_in_force(cluster: Cluster, folder: Path) -> None:
    """Wait until the API server, which learns of policies by watching, refuses a foreign report."""
    with closing(cluster.admin()) as admin:
        apply_all(admin, [trainer_binding("default")])
    stranger = Api(
        cluster.service_account_kubeconfig(folder / "stranger", namespace="default", name="default")
    )

    def refusal() -> bool:
        try:
            stranger.create(
                f"{GROUP}/namespaces/default/trainingreports", a_report("x"), dryRun="All"
            )
        except ApiFailure as failure:
            return REPORT_POLICY in failure.message
        return False

    with closing(stranger):
        wait_for(refusal, lambda: f"{REPORT_POLICY} refuses nothing")


def a_report(pod: str, *, uid: str = "u-1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "concertina.dev/v1alpha1",
        "kind": "TrainingReport",
        "metadata": {
            "name": pod,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}],
        },
        "spec": {"pod": pod, "uid": uid, "incarnation": "i-1", **spec},
    }


def pod_token(api: Api, *, namespace: str, pod: dict[str, Any]) -> str:
    """A token like the one that the kubelet projects into this pod."""
    account = pod["spec"]["serviceAccountName"]
    reference = {"apiVersion": "v1", "kind": "Pod"}
    reference |= {field: pod["metadata"][field] for field in ("name", "uid")}
    answer = api.create(
        f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
        {"spec": {"boundObjectRef": reference}},
    )
    return str(answer["status"]["token"])


def as_token(cluster: Cluster, token: str, path: Path) -> Api:
    """A connection of who holds the token."""
    with closing(cluster.admin()) as api:
        roots = api.get("/api/v1/namespaces/default/configmaps/kube-root-ca.crt")
    authority = base64.b64encode(roots["data"]["ca.crt"].encode()).decode()
    server = {"server": cluster.url, "certificate-authority-data": authority}
    return Api(write_kubeconfig(path, cluster=server, user={"token": token}))
