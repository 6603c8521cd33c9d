"""The table of versions: what was run, as go.mod files and uv.lock pin it. Called by pages.py."""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from concertina_api.v1alpha1 import API_VERSION, PROTOCOL
from docs.reference.markdown import code, page, table

_ROOT: Final = Path(__file__).parents[2]
_INTRODUCTION: Final = """\
Supported is what the tests run, and nothing else is claimed. The tests build every program below from
source at exactly this version. The Python packages are those that `uv.lock` names;
the images hold exactly these."""
_PROGRAMS: Final = (
    ("Kubernetes", "k8s", "k8s.io/kubernetes", "API server, controllers, scheduler, kubelet"),
    ("etcd", "tools", "go.etcd.io/etcd/server/v3", "under the API server"),
    ("containerd", "tools", "github.com/containerd/containerd/v2", "under the kubelet"),
    ("runc", "tools", "github.com/opencontainers/runc", "under containerd"),
    ("KWOK", "tools", "sigs.k8s.io/kwok", "pretended nodes, for thousands of pods"),
    ("Helm", "delivery", "helm.sh/helm/v4", "installs, upgrades, rolls back, uninstalls the chart"),
    ("kubeconform", "delivery", "github.com/yannh/kubeconform", "checks the rendered chart"),
    ("Prometheus", "monitoring", "github.com/prometheus/prometheus", "scrapes; tests the alerts"),
    ("BuildKit", "images", "github.com/moby/buildkit", "builds the images"),
)
_PACKAGES: Final = (
    "torch", "numpy", "safetensors", "pydantic", "kopf", "aiohttp", "kubernetes",
    "prometheus-client", "click", "transformers", "peft",
)  # fmt: skip
_NEEDS: Final = """\
- Kubernetes: admission policies in CEL (`ValidatingAdmissionPolicy`, stable since 1.30) and tokens that
  name their pod. An API server without the former cannot take the installation.
- Nodes: Linux. Pods reach each other on any port within their namespace.
- A trainer's image: Python and PyTorch in the ranges above."""
_NOT_RUN: Final = """\
- Other versions of Kubernetes, kind, minikube, and managed clusters.
- GPUs: the NCCL transport is written and has not been run on one; every test and figure is
  of gloo on CPU. The tests' GPUs are imagined by a device plugin.
- Architectures other than amd64; Windows; macOS.
- A Grafana server and the Prometheus Operator: their objects are validated, and the queries run on a
  Prometheus.
- NetworkPolicies in force: the tests' network does not enforce any."""


def versions_page() -> str:
    """The whole page."""
    return page(
        "Supported versions",
        _INTRODUCTION,
        "## Programs",
        table(("program", "version", "what it did"), _programs()),
        "Prometheus numbers its Go module 0.3xx: module 0.315.0 is Prometheus 3.15.0.",
        "## Python packages",
        table(("package", "locked", "accepted"), _packages()),
        "## Own versions",
        table(("what", "version"), _own()),
        "## What it needs",
        _NEEDS,
        "## What has not been run",
        _NOT_RUN,
    )


def _programs() -> Iterable[tuple[str, ...]]:
    for name, module, package, purpose in _PROGRAMS:
        pin = rf"^\s*(?:require )?{re.escape(package)} v(\S+)"
        yield name, _pinned(f"tests/cluster/go/{module}/go.mod", pin), purpose
    pin = r'^VERSION = "v(.+)"$'
    yield "Helm 3", _pinned("tests/chart/test_helm3.py", pin), "renders the chart as Helm 4 does"


def _packages() -> Iterable[tuple[str, ...]]:
    project = _toml("pyproject.toml")["project"]
    locked = defaultdict(list)
    for one in _toml("uv.lock")["package"]:
        locked[one["name"]].append(one.get("version", ""))
    accepted = _accepted(project)
    python = project["requires-python"]
    yield "Python", _toml("pyproject.toml")["tool"]["mypy"]["python_version"], code(python)
    for name in _PACKAGES:
        yield name, " or ".join(locked[name]), code(accepted.get(name, ""))


def _accepted(project: Mapping[str, Any]) -> Mapping[str, str]:
    """The range of each package that the distribution names, by its name."""
    groups = (project["dependencies"], *project["optional-dependencies"].values())
    matches = (re.match(r"([\w-]+)(.*)", one) for group in groups for one in group)
    return {match[1]: match[2] for match in matches if match is not None}


def _own() -> Iterable[tuple[str, str]]:
    yield "concertina-training", _toml("pyproject.toml")["project"]["version"]
    yield "API", code(API_VERSION)
    yield "protocol of membership and reports", str(PROTOCOL)


def _pinned(path: str, pattern: str) -> str:
    """What the first group of the pattern finds in a file. Raises LookupError."""
    found = re.search(pattern, (_ROOT / path).read_text(), re.MULTILINE)
    if found is None:
        raise LookupError(f"{path} has nothing like {pattern}")
    return found[1]


def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((_ROOT / name).read_text())
