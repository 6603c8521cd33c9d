"""A release of the chart in a cluster, as an administrator handles it with Helm.

Used by the tests of the chart that install it. An installation is one per cluster: nothing of it is
there before, and nothing is left afterwards.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import yaml

from concertina_operator.cluster import paths
from concertina_operator.cluster.install import install_objects, trainer_objects
from concertina_operator.cluster.rights import OPERATOR
from tests.chart.helm import CHART, RELEASE, HelmFailure, run_helm
from tests.chart.monitoring_crds import monitoring_crds
from tests.cluster.api import Api, wait_for
from tests.cluster.cluster import Cluster, wait_for_namespace
from tests.concertina_operator.cluster.installed import apply_all, path_of
from tests.images.images import Image

WAIT = ("--wait", "--timeout", "120s")
GONE_SECONDS = 120.0
LEAD_SECONDS = 60.0
PART_OF = "app.kubernetes.io/part-of=concertina"
"""What every object of a release has as a label."""
COLLECTIONS = (
    "admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
    "apiextensions.k8s.io/v1/customresourcedefinitions",
    "flowcontrol.apiserver.k8s.io/v1/flowschemas",
    "flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
    "rbac.authorization.k8s.io/v1/clusterrolebindings",
    "rbac.authorization.k8s.io/v1/clusterroles",
    "scheduling.k8s.io/v1/priorityclasses",
)
"""Of kinds without a namespace that the chart makes objects of."""
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
Object = dict[str, Any]


class Release:
    """A release and what it consists of; each verb is one of Helm's."""

    def __init__(self, cluster: Cluster, namespace: str, *, chart: Path = CHART) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.chart = chart
        self.api = cluster.admin()

    def install(self, values: Mapping[str, Any]) -> str:
        return self._changed("install", values, chart=self.chart)

    def upgrade(self, values: Mapping[str, Any], *, chart: Path | None = None) -> str:
        return self._changed("upgrade", values, chart=chart or self.chart)

    def rollback(self) -> str:
        """To the revision before the present one."""
        return self._waited("rollback", RELEASE)

    def test(self) -> str:
        return self._helm("test", RELEASE, "--timeout", "240s")

    def uninstall(self) -> str:
        return self._waited("uninstall", RELEASE)

    def revision(self) -> tuple[int, str]:
        """Number and state of the newest revision."""
        newest = yaml.safe_load(self._helm("history", RELEASE, "--output=json"))[-1]
        return newest["revision"], newest["status"]

    def objects(self) -> list[Object]:
        """What Helm says that it made."""
        return [
            entry for entry in yaml.safe_load_all(self._helm("get", "manifest", RELEASE)) if entry
        ]

    def replicas(self) -> dict[str, Object]:
        """The operator's pods that are not about to end, by name."""
        label = f"app.kubernetes.io/name={OPERATOR}"
        found = self.api.list(paths.pods(self.namespace), labelSelector=label)
        return {
            pod["metadata"]["name"]: pod
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
        }

    def leader(self) -> str:
        """The pod that leads; waits until it is one of those that there are."""

        def found() -> str | None:
            lease = self.api.find(paths.leases(self.namespace, OPERATOR)) or {}
            holder = lease.get("spec", {}).get("holderIdentity") or ""
            return next((name for name in self.replicas() if holder.startswith(name)), None)

        return wait_for(found, lambda: f"none of {list(self.replicas())} leads", LEAD_SECONDS)

    def text(self) -> str:
        """What the replicas have logged, for the message of a failure."""
        label = f"--selector=app.kubernetes.io/name={OPERATOR}"
        more = (f"--namespace={self.namespace}", "--prefix", "--tail=200")
        done = self.cluster.run_kubectl("logs", label, *more, check=False)
        return done.stdout + done.stderr

    def remove(self) -> None:
        """Take everything away, what it is told to keep and its namespace included."""
        self._waited("uninstall", RELEASE, "--ignore-not-found")
        left = [path_of(entry) for entry in trainer_objects()]
        for path in (*left, f"/api/v1/namespaces/{self.namespace}"):
            self.api.delete(path)
            self.api.wait_gone(path, seconds=GONE_SECONDS)
        assert not (there := installed(self.api)), f"left: {there}"

    def _changed(self, verb: str, values: Mapping[str, Any], *, chart: Path) -> str:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(dict(values), file)
            file.flush()
            return self._waited(verb, RELEASE, str(chart), "--values", file.name)

    def _waited(self, *arguments: str) -> str:
        """What Helm prints when all is as it should be; else with an account of the operators."""
        try:
            return self._helm(*arguments, *WAIT)
        except HelmFailure as failure:
            described = self.cluster.run_kubectl(
                "describe", "pods", f"--namespace={self.namespace}", check=False
            )
            failure.add_note(f"{described.stdout}{self.text()}")
            raise

    def _helm(self, *arguments: str) -> str:
        return run_helm(
            *arguments, f"--namespace={self.namespace}", kubeconfig=self.cluster.kubeconfig
        )


def image_values(operator: Image, trainer: Image) -> dict[str, Any]:
    """Values that name images which the node has, as those of a registry are named."""

    def value(image: Image) -> dict[str, str]:
        repository, tag = image.reference.rsplit(":", 1)
        return {"repository": repository, "tag": tag}

    return {"image": value(operator), "trainerImage": value(trainer)}


@contextmanager
def released(cluster: Cluster, *, chart: Path = CHART) -> Iterator[Release]:
    """A release that can be installed, in a namespace that takes only restricted pods.

    Raises:
        AssertionError: Concertina is installed already, or something of it is left in the end.
    """
    with closing(cluster.admin()) as api:
        refuse_another(api)
        labels = {"labels": RESTRICTED, "generateName": "concertina-"}
        name = api.create("/api/v1/namespaces", {"metadata": labels})["metadata"]["name"]
        wait_for_namespace(api, name)
    with removed(Release(cluster, name, chart=chart)) as release:
        yield release


@contextmanager
def removed(release: Release) -> Iterator[Release]:
    """The release, which is gone in the end, whoever installed it."""
    with closing(release.api):
        try:
            yield release
        finally:
            release.remove()


@contextmanager
def monitoring_kinds(cluster: Cluster) -> Iterator[None]:
    """The kinds of the Prometheus Operator, of which the chart makes objects."""
    with closing(cluster.admin()) as api:
        apply_all(api, monitoring_crds())
    yield
    with closing(cluster.admin()) as api:
        for entry in monitoring_crds():
            api.delete(path_of(entry))
            api.wait_gone(path_of(entry))


def refuse_another(api: Api) -> None:
    """Raises AssertionError where Concertina is installed already."""
    assert not (there := installed(api)), f"Concertina is installed already: {there}"


def installed(api: Api) -> list[str]:
    """What the cluster as a whole has of Concertina, whoever installed it."""
    plain = [path_of(entry) for entry in install_objects(image="none")]
    found = {path for path in plain if "/namespaces/" not in path and api.find(path) is not None}
    for collection in COLLECTIONS:
        of_release = api.list(f"/apis/{collection}", labelSelector=PART_OF)
        found |= {f"/apis/{collection}/{entry['metadata']['name']}" for entry in of_release}
    return sorted(found)
