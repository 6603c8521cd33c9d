"""The configuration files and images of a cluster. Pure: layout in, documents out.

Kubernetes reads its configuration as YAML, of which the JSON written here is a part.
"""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.cluster.layout import CGROUP, NODE_NAME, NODE_POD_NETWORK, POD_NETWORK, Layout

ARCHITECTURE = {"aarch64": "arm64"}.get(platform.machine(), "amd64")
"""As images name it."""
USER_FOLDERS = ("bin", "sbin", "lib", "lib64")
"""Links into /usr, as on a merged-/usr distribution: mounting the host's /usr is then enough."""
FOLDERS = ("usr", "etc", "tmp", "root", "run", "var", "var/tmp", "home")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image of one layer."""

    name: str
    command: tuple[str, ...]

    @property
    def reference(self) -> str:
        return f"localhost/{self.name}:1"


PAUSE_IMAGE = Image(name="pause", command=("/pause",))
BASE_IMAGE = Image(name="base", command=("/bin/sh",))
"""Empty but for folders: a pod brings its files by hostPath."""


def configuration(layout: Layout) -> dict[str, str]:
    """The text of each configuration file, by its name in the cluster's folder."""
    documents = {
        "audit-policy.json": audit_policy(),
        "kubelet.json": kubelet(layout),
        "kube-proxy.json": kube_proxy(layout),
        "cni/10-bridge.conflist": pod_network(),
    }
    texts = {name: json.dumps(document, indent=1) for name, document in documents.items()}
    return {**texts, "containerd.toml": containerd(layout)}


def audit_policy() -> dict[str, Any]:
    """Who did what to which object, without the objects."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    }


def kwok_options() -> dict[str, Any]:
    return {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {
            "podPlayStageParallelism": 16,
            "nodePlayStageParallelism": 4,
            "nodeLeaseParallelism": 4,
            "nodeLeaseDurationSeconds": 40,
        },
    }


def kubelet(layout: Layout) -> dict[str, Any]:
    authority = {"clientCAFile": str(layout.certificate("ca"))}
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": authority,
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
        "enforceNodeAllocatable": [],
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False,
        "maxPods": 60,
        "serializeImagePulls": False,
        # A device plugin's devices are allocatable at the next status.
        "nodeStatusUpdateFrequency": "1s",
        "registryPullQPS": 0,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "eventRecordQPS": 0,
    }


def kube_proxy(layout: Layout) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(layout.kubeconfig("kube-proxy"))},
        "mode": "nftables",
        "clusterCIDR": POD_NETWORK,
        "hostnameOverride": NODE_NAME,
        # These would be written into the kernel, where a network namespace may not.
        "conntrack": {
            "maxPerCore": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def pod_network() -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": NODE_POD_NETWORK}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": addresses,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}


def containerd(layout: Layout) -> str:
    state = layout.state
    return f"""\
version = 3
root = "{state}/containerd/root"
state = "{state}/containerd/run"
[grpc]
  address = "{layout.containerd_socket}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE.reference}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
  conf_dir = "{state}/cni"
"""


def image_archive(image: Image, *, programs: Mapping[str, bytes]) -> bytes:
    """A docker archive of one layer: the folders, the links, the programs and who root is."""
    layer = _layer(
        {**programs, "etc/passwd": b"root:x:0:0::/root:/bin/sh\n", "etc/group": b"root:x:0:\n"}
    )
    config = json.dumps(
        {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": {"Entrypoint": list(image.command)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(layer)}"]},
        }
    ).encode()
    name = f"{_digest(config)}.json"
    manifest = [{"Config": name, "RepoTags": [image.reference], "Layers": ["layer.tar"]}]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        _add(tar, "layer.tar", layer)
        _add(tar, name, config)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return archive.getvalue()


def _layer(files: Mapping[str, bytes]) -> bytes:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name.endswith("tmp") else 0o755
            tar.addfile(entry)
        for name in USER_FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(entry)
        for name, content in files.items():
            _add(tar, name, content)
    return layer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o755
    tar.addfile(entry, io.BytesIO(content))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
