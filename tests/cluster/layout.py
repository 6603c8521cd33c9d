"""What a cluster of each level is: its files, addresses and ports. Pure but for the free ports.

Read by everything that writes or names a file of the cluster.
"""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from tests.ports import free_port

GATEWAY = "10.77.0.1"
"""The host's end of the link to the node."""
NODE_ADDRESS = "10.77.0.2"
POD_NETWORK = "10.245.0.0/16"
NODE_POD_NETWORK = "10.245.0.0/24"
SERVICE_NETWORK = "10.97.0.0/24"
API_SERVICE = "10.97.0.1"
NODE_NAME = "node-0"
LINK = "concertina0"
"""The name of the host's end of the link."""
CGROUP = "concertina-test"
PREFIX = "concertina-cluster-"
"""Of the folders of control planes that live beside others."""
LAYOUT = "layout.json"
"""The file that says that a folder is a cluster's, and what it is."""


class Level(StrEnum):
    """How much of a cluster there is."""

    CONTROL_PLANE = "control-plane"
    """Without a kubelet, on loopback; needs no root. Pods can only run on KWOK's nodes."""
    NODE = "node"
    """With one real node, in namespaces of its own; one at a time on a machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the servers of the control plane listen."""

    api: int = 6443
    etcd: int = 2379
    etcd_peer: int = 2380


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One cluster: its folder, its binaries and how it is to be started."""

    level: Level
    state: Path
    """The folder of everything that it writes."""
    binaries: Path
    ports: Ports = Ports()
    gpus: int = 0
    """nvidia.com/gpu that the real node offers."""
    kwok: bool = False
    audit: bool = False
    """Record every request at level Metadata in `log/audit.jsonl`."""
    queries_per_second: int = 200
    """What the controllers, the scheduler and KWOK may ask of the API server."""

    @property
    def address(self) -> str:
        return NODE_ADDRESS if self.level is Level.NODE else "127.0.0.1"

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.ports.api}"

    @property
    def audit_log(self) -> Path:
        return self.state / "log" / "audit.jsonl"

    @property
    def containerd_socket(self) -> Path:
        return self.state / "containerd.sock"

    def binary(self, name: str) -> str:
        return str(self.binaries / name)

    def certificate(self, name: str) -> Path:
        return self.state / "pki" / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.state / "pki" / f"{name}.key"

    def kubeconfig(self, name: str) -> Path:
        return self.state / f"{name}.kubeconfig"


def write_layout(layout: Layout) -> str:
    """As JSON, for `read_layout`."""
    return json.dumps(asdict(layout), default=str, indent=1)


def read_layout(text: str) -> Layout:
    """What `write_layout` wrote."""
    fields = json.loads(text)
    paths = {name: Path(fields[name]) for name in ("state", "binaries")}
    typed = {"level": Level(fields["level"]), "ports": Ports(**fields["ports"])}
    return Layout(**{**fields, **paths, **typed})


def default_state(level: Level, *, use: str = "shell") -> Path:
    """The folder that every start for this use takes, and so finds what an earlier one left."""
    return Path(tempfile.gettempdir()) / f"concertina-{level}-{use}-{os.getuid()}"


def free_ports() -> Ports:
    """Ports of loopback that nobody listens on now."""
    first = free_port(run=3)
    return Ports(api=first, etcd=first + 1, etcd_peer=first + 2)
