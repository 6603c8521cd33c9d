"""The tools that are built from Go modules, and which of them are built together.

A family shares a folder and a key: a change of one of its modules rebuilds it and no other.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One binary and where its source is."""

    name: str
    module: str
    """The folder under `go/` whose go.mod pins it."""
    package: str
    tags: str = ""
    cgo: bool = False


CONTROL_PLANE = (
    Tool(name="kube-apiserver", module="k8s", package="k8s.io/kubernetes/cmd/kube-apiserver"),
    Tool(name="etcd", module="tools", package="go.etcd.io/etcd/server/v3"),
    Tool(name="kubectl", module="k8s", package="k8s.io/kubernetes/cmd/kubectl"),
    Tool(
        name="kube-controller-manager",
        module="k8s",
        package="k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    Tool(name="kube-scheduler", module="k8s", package="k8s.io/kubernetes/cmd/kube-scheduler"),
    Tool(name="kwok", module="tools", package="sigs.k8s.io/kwok/cmd/kwok"),
)
NODE = (
    Tool(name="kubelet", module="k8s", package="k8s.io/kubernetes/cmd/kubelet"),
    Tool(name="kube-proxy", module="k8s", package="k8s.io/kubernetes/cmd/kube-proxy"),
    Tool(
        name="containerd",
        module="tools",
        package="github.com/containerd/containerd/v2/cmd/containerd",
    ),
    Tool(
        name="containerd-shim-runc-v2",
        module="tools",
        package="github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    ),
    Tool(name="ctr", module="tools", package="github.com/containerd/containerd/v2/cmd/ctr"),
    Tool(
        name="runc",
        module="tools",
        package="github.com/opencontainers/runc",
        tags="seccomp",
        cgo=True,
    ),
    Tool(name="pause", module="tools", package="./pause"),
)
TOOLS = CONTROL_PLANE + NODE
DELIVERY = (
    Tool(name="helm", module="delivery", package="helm.sh/helm/v4/cmd/helm"),
    Tool(
        name="kubeconform",
        module="delivery",
        package="github.com/yannh/kubeconform/cmd/kubeconform",
    ),
)
_DISCOVERY = "netgo,remove_all_sd,enable_kubernetes_sd"
"""Of all that Prometheus can discover targets by, Kubernetes alone: a tenth of the code."""
MONITORING = (
    Tool(
        name="prometheus",
        module="monitoring",
        package="github.com/prometheus/prometheus/cmd/prometheus",
        tags=_DISCOVERY,
    ),
    Tool(
        name="promtool",
        module="monitoring",
        package="github.com/prometheus/prometheus/cmd/promtool",
        tags=_DISCOVERY,
    ),
)
IMAGES = (
    Tool(name="buildctl", module="images", package="github.com/moby/buildkit/cmd/buildctl"),
    Tool(name="buildkitd", module="images", package="github.com/moby/buildkit/cmd/buildkitd"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Tools that are kept in one folder."""

    modules: tuple[str, ...]
    tools: tuple[Tool, ...]


CLUSTER_FAMILY = Family(modules=("k8s", "tools"), tools=TOOLS)
FAMILIES = (
    CLUSTER_FAMILY,
    Family(modules=("delivery",), tools=DELIVERY),
    Family(modules=("monitoring",), tools=MONITORING),
    Family(modules=("images",), tools=IMAGES),
)


def family_of(tool: Tool) -> Family:
    """The family that builds a tool's module."""
    return next(family for family in FAMILIES if tool.module in family.modules)
