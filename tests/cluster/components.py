"""The processes of a cluster, as steps for the supervisor: what is started, how and in which order.

Pure. Flags are chosen for tests: no leader election, no fsync, EC keys, high client rates, and
controllers that do not wait where the default is seconds.
"""

from typing import Any

from tests.cluster.documents import BASE_IMAGE, PAUSE_IMAGE
from tests.cluster.layout import (
    GATEWAY,
    NODE_ADDRESS,
    NODE_NAME,
    SERVICE_NETWORK,
    Layout,
    Level,
)

Step = dict[str, Any]
HOST_FOLDERS = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers")
"""Folders with fixed names, which a folder of the cluster's own covers in its mount namespace."""
TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What a kubelet writes into the kernel of its machine unless it reads just that there."""
GPU = "nvidia.com/gpu"


def steps(layout: Layout, *, python: str, folder: str) -> list[Step]:
    """All steps; `python` runs the scripts of `folder`."""
    if layout.level is Level.CONTROL_PLANE:
        return [*_storage(layout), *_controllers(layout)]
    return [
        *_isolation(layout),
        *_storage(layout),
        *_runtime(layout),
        *_controllers(layout),
        *_node(layout, python=python, folder=folder),
    ]


def _start(name: str, *argv: str) -> Step:
    return {"do": "start", "name": name, "argv": list(argv)}


def _run(*argv: str) -> Step:
    return {"do": "run", "argv": list(argv)}


def _until(*argv: str) -> Step:
    return {"do": "until", "argv": list(argv)}


def _isolation(layout: Layout) -> list[Step]:
    """Make the namespaces of the node its own: mounts first, then its end of the link."""
    covers = [
        _run("mount", "--bind", str(layout.state / "host" / name.strip("/")), name)
        for name in HOST_FOLDERS
    ]
    tunables = [
        _run("mount", "--bind", str(layout.state / "tunables" / name), f"/proc/sys/{name}")
        for name in TUNABLES
    ]
    return [
        _run("mount", "--make-rshared", "/"),
        _run("mount", "-t", "tmpfs", "run", "/run"),
        *covers,
        *tunables,
        _run("ip", "link", "set", "lo", "up"),
        _until("ip", "link", "show", "eth0"),
        _run("ip", "address", "add", f"{NODE_ADDRESS}/30", "dev", "eth0"),
        _run("ip", "link", "set", "eth0", "up"),
        _run("ip", "route", "add", "default", "via", GATEWAY),
        _run("sysctl", "-qw", "net.ipv4.ip_forward=1"),
    ]


def _storage(layout: Layout) -> list[Step]:
    """etcd and the API server, until it is ready."""
    client = f"http://127.0.0.1:{layout.ports.etcd}"
    peer = f"http://127.0.0.1:{layout.ports.etcd_peer}"
    etcd = _start(
        "etcd",
        layout.binary("etcd"),
        f"--data-dir={layout.state / 'etcd'}",
        "--unsafe-no-fsync",
        "--log-level=warn",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    )
    api = _start(
        "kube-apiserver",
        layout.binary("kube-apiserver"),
        f"--etcd-servers={client}",
        f"--secure-port={layout.ports.api}",
        f"--advertise-address={layout.address}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        f"--tls-cert-file={layout.certificate('kube-apiserver')}",
        f"--tls-private-key-file={layout.key('kube-apiserver')}",
        f"--client-ca-file={layout.certificate('ca')}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={layout.certificate('tokens')}",
        f"--service-account-signing-key-file={layout.key('tokens')}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--kubelet-client-certificate={layout.certificate('admin')}",
        f"--kubelet-client-key={layout.key('admin')}",
        "--kubelet-preferred-address-types=InternalIP",
        *_level_flags(layout),
        *_audit_flags(layout),
    )
    ready = (layout.binary("kubectl"), f"--kubeconfig={layout.kubeconfig('admin')}")
    return [etcd, api, _until(*ready, "get", "--raw=/readyz")]


def _level_flags(layout: Layout) -> tuple[str, ...]:
    if layout.level is Level.NODE:
        return ("--bind-address=0.0.0.0",)
    # An endpoint on loopback would be refused, again and again.
    return ("--bind-address=127.0.0.1", "--endpoint-reconciler-type=none")


def _audit_flags(layout: Layout) -> tuple[str, ...]:
    if not layout.audit:
        return ()
    return (
        f"--audit-policy-file={layout.state / 'audit-policy.json'}",
        f"--audit-log-path={layout.audit_log}",
        "--audit-log-mode=blocking",
    )


def _controllers(layout: Layout) -> list[Step]:
    rates = (
        f"--kube-api-qps={layout.queries_per_second}",
        f"--kube-api-burst={layout.queries_per_second}",
    )
    controllers = _start(
        "kube-controller-manager",
        layout.binary("kube-controller-manager"),
        f"--kubeconfig={layout.kubeconfig('kube-controller-manager')}",
        f"--service-account-private-key-file={layout.key('tokens')}",
        f"--root-ca-file={layout.certificate('ca')}",
        "--leader-elect=false",
        "--secure-port=0",
        "--horizontal-pod-autoscaler-sync-period=1s",
        *rates,
    )
    scheduler = _start(
        "kube-scheduler",
        layout.binary("kube-scheduler"),
        f"--kubeconfig={layout.kubeconfig('kube-scheduler')}",
        "--leader-elect=false",
        "--secure-port=0",
        *rates,
    )
    return [controllers, scheduler, *([_kwok(layout)] if layout.kwok else [])]


def _kwok(layout: Layout) -> Step:
    return _start(
        "kwok",
        "env",
        f"HOME={layout.state}",  # it would write into the user's
        layout.binary("kwok"),
        f"--kubeconfig={layout.kubeconfig('kwok')}",
        f"--config={layout.state / 'kwok.yaml'}",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        "--node-lease-duration-seconds=40",
        "--cidr=10.250.0.0/16",
    )


def _runtime(layout: Layout) -> list[Step]:
    """containerd with the two images that every node has."""
    ctr = (layout.binary("ctr"), f"--address={layout.containerd_socket}", "--namespace=k8s.io")
    images = [
        _run(*ctr, "images", "import", str(layout.state / "images" / f"{name}.tar"))
        for name in (PAUSE_IMAGE.name, BASE_IMAGE.name)
    ]
    containerd = _start(
        "containerd",
        "env",
        f"PATH={layout.binaries}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        layout.binary("containerd"),
        f"--config={layout.state / 'containerd.toml'}",
    )
    return [containerd, _until(*ctr, "version"), *images]


def _node(layout: Layout, *, python: str, folder: str) -> list[Step]:
    kubelet = _start(
        "kubelet",
        layout.binary("kubelet"),
        f"--config={layout.state / 'kubelet.json'}",
        f"--kubeconfig={layout.kubeconfig('kubelet')}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={NODE_ADDRESS}",
    )
    proxy = _start(
        "kube-proxy", layout.binary("kube-proxy"), f"--config={layout.state / 'kube-proxy.json'}"
    )
    plugin = _start(
        "device-plugin",
        python,
        "-P",
        f"{folder}/device_plugin.py",
        "/var/lib/kubelet/device-plugins",
        GPU,
        str(layout.gpus),
    )
    return [kubelet, proxy, *([plugin] if layout.gpus else [])]
