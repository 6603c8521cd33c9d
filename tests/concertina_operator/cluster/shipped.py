"""The shipped manifests on a control plane: what they need of a platform, and who plays their trainers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from concertina_operator.manifest_file import load_job
from tests.cluster.api import Api
from tests.cluster.cluster import Cluster
from tests.cluster.fake_nodes import fake_nodes
from tests.concertina_operator.cluster.trainers import Trainers
from tests.concertina_operator.imagined_cluster import FakeCluster

FOLDER = Path(__file__).parents[3] / "manifests"
MANIFESTS = sorted(path.name for path in FOLDER.glob("*.yaml"))

PLAIN, LARGE, SPOT = "shipped-0", "shipped-1", "shipped-2"
LABELS = {
    LARGE: {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    SPOT: {"karpenter.sh/capacity-type": "spot"},
}
SPOT_TAINTS = [
    {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
    {"key": "kubernetes.azure.com/scalesetpriority", "value": "spot", "effect": "NoSchedule"},
]


@contextmanager
def shipped_nodes(api: Api) -> Iterator[None]:
    """Three nodes: one like any other, one of large GPUs, and one that may go at any time."""
    with fake_nodes(api, 3, prefix="shipped") as names:
        for name in names:
            if name in LABELS:
                api.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": LABELS[name]}})
        api.patch(f"/api/v1/nodes/{SPOT}", {"spec": {"taints": SPOT_TAINTS}})
        yield


@dataclass(kw_only=True)
class Shipping:
    """Applies manifests in a namespace, as a user does, and takes everything away in the end."""

    cluster: Cluster
    api: Api
    namespace: str
    _applied: list[str] = field(default_factory=list)
    _volumes: list[str] = field(default_factory=list)
    _claims: list[str] = field(default_factory=list)

    def apply(self, manifest: str) -> Trainers:
        """The trainers of the job; nothing of it has been seen yet."""
        job = load_job(FOLDER / manifest)
        self._applied.append(manifest)
        self.kubectl("apply", "--filename", str(FOLDER / manifest))
        return Trainers(
            api=self.api,
            namespace=self.namespace,
            job=job.metadata.name,
            workers=job.spec.pods.workers_per_pod,
            imagined=FakeCluster(effective=job.spec.batch.initial),
        )

    def give_volume(self, claim: str) -> str:
        """What a platform provides for a claim of the manifests; its path in the API."""
        name = f"{self.namespace}-{claim}"
        reference = {"namespace": self.namespace, "name": claim}
        spec: dict[str, Any] = {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteMany"],
            "nfs": {"server": "files.example.com", "path": f"/{claim}"},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **reference},
        }
        self.api.create("/api/v1/persistentvolumes", {"metadata": {"name": name}, "spec": spec})
        self._volumes.append(name)
        return f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims/{claim}"

    def claim(self, name: str) -> None:
        """The claim that a manifest takes for granted, made like that of 03-own-image.yaml."""
        path = self.give_volume(name)
        spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "50Gi"}}}
        self._claims.append(path)
        self.api.create(path.rpartition("/")[0], {"metadata": {"name": name}, "spec": spec})

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.run_kubectl(f"--namespace={self.namespace}", *arguments).stdout

    def clear(self) -> None:
        for manifest in self._applied:
            self.kubectl(
                "delete", "--filename", str(FOLDER / manifest), "--wait=false", "--ignore-not-found"
            )
            job = load_job(FOLDER / manifest).metadata.name
            for pod in Trainers(api=self.api, namespace=self.namespace, job=job).pods():
                path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}"
                self.api.delete(path, gracePeriodSeconds=0)
        for claim in self._claims:
            self.api.delete(claim)
        for volume in self._volumes:
            self.api.delete(f"/api/v1/persistentvolumes/{volume}")
