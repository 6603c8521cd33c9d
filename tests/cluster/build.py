"""Builds the binaries of a test cluster from Go modules into a cache: `python -m tests.cluster.build`.

The cache is a folder outside the checkout, named by the hash of everything that a binary depends
on, so that branches do not disturb each other and an old binary is never taken for a new one. Each
tool is built beside its place and renamed into it: a build that was cut leaves no half binary, and
the next one goes on with the tool that is missing. Cold: about ten minutes on two cores.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.packages import PackagesMissing, ensure_packages

GO = Path(__file__).with_name("go")
KUBERNETES_VERSION = "v1.36.3"
VERSION_FLAGS = (
    f"-X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}"
    " -X k8s.io/component-base/version.gitMajor=1"
    " -X k8s.io/component-base/version.gitMinor=36"
)
"""Without them the servers call themselves v0.0.0, and kubectl warns of skew."""
REQUIRED = "CONCERTINA_REQUIRE_CLUSTER"
"""Set to 1 where a cluster that cannot be had is a failure, not a reason to skip."""


class BuildFailure(Exception):
    """A tool cannot be built; the message says which and what is missing."""


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
STAGES = "kwok-stages.yaml"
"""What imagined nodes and pods do and when, from KWOK's own module."""
STAGE_FILES = (
    "node/fast/node-initialize",
    "node/heartbeat-with-lease/node-heartbeat-with-lease",
    "pod/fast/pod-ready",
    "pod/fast/pod-complete",
    "pod/fast/pod-delete",
)


def binaries() -> Path:
    """The folder of the binaries that this checkout wants; it need not exist."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "concertina" / _key()


def missing(tools: Iterable[Tool]) -> tuple[Tool, ...]:
    """Those of the tools that are not built."""
    folder = binaries()
    return tuple(tool for tool in tools if not (folder / tool.name).exists())


def build(tools: Iterable[Tool] = TOOLS) -> Path:
    """Build what is missing and return the folder.

    Raises:
        BuildFailure: Go or a Debian package is missing, or a build failed.
    """
    wanted = tuple(tools)
    folder = binaries()
    if not missing(wanted) and (folder / STAGES).exists():
        return folder
    if shutil.which("go") is None:
        names = ", ".join(tool.name for tool in missing(wanted))
        raise BuildFailure(f"Go is not in PATH, and {names} must be built with it")
    folder.mkdir(parents=True, exist_ok=True)
    with _one_builder(folder):
        if not (folder / STAGES).exists():
            _copy_stages(folder)
        for number, tool in enumerate(todo := missing(wanted), start=1):
            print(f"building {tool.name} ({number} of {len(todo)})", flush=True)
            _build_tool(tool, folder=folder)
    return folder


def _key() -> str:
    """Sixteen digits that change when anything that goes into a binary does."""
    digest = hashlib.sha256(repr((TOOLS, VERSION_FLAGS, STAGE_FILES)).encode())
    sources = (*GO.rglob("go.mod"), *GO.rglob("go.sum"), *GO.rglob("*.go"))
    for path in sorted(sources):
        digest.update(path.relative_to(GO).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _one_builder(folder: Path) -> Iterator[None]:
    """Let a second builder wait: it would only build the same things at half the speed."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another build is under way; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_tool(tool: Tool, *, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as place:
        built = Path(place) / tool.name
        command = ["go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false"]
        command += ["-ldflags", f"-s -w {VERSION_FLAGS}", "-tags", tool.tags, "-o", str(built)]
        _go([*command, tool.package], tool=tool)
        built.rename(folder / tool.name)


def _copy_stages(folder: Path) -> None:
    kwok = next(tool for tool in TOOLS if tool.name == "kwok")
    found = _go(["go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"], tool=kwok)
    stages = Path(found.strip()) / "kustomize" / "stage"
    texts = [(stages / f"{name}.yaml").read_text() for name in STAGE_FILES]
    partial = folder / f".{STAGES}.{os.getpid()}"
    partial.write_text("\n---\n".join(texts))
    partial.rename(folder / STAGES)


def _go(command: list[str], *, tool: Tool) -> str:
    environment = {**os.environ, "CGO_ENABLED": "1" if tool.cgo else "0", "GOFLAGS": ""}
    done = subprocess.run(
        command, cwd=GO / tool.module, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = "\n".join(done.stderr.splitlines()[-20:])
        raise BuildFailure(f"`{' '.join(command)}` ended with {done.returncode}:\n{words}")
    return done.stdout


def main(arguments: list[str] | None = None) -> int:
    """Build for the command line; 1 when it cannot be done and a cluster is required."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.build", description=__doc__)
    parser.add_argument("--control-plane", action="store_true", help="leave out the node's tools")
    chosen = parser.parse_args(arguments)
    tools, code = TOOLS, 1 if os.environ.get(REQUIRED) == "1" else 0
    if chosen.control_plane:
        tools = CONTROL_PLANE
    else:
        try:
            ensure_packages()
        except PackagesMissing as error:
            print(f"the control plane alone: {error}", file=sys.stderr)
            tools = CONTROL_PLANE
    try:
        print(build(tools))
    except BuildFailure as error:
        print(f"no test cluster: {error}", file=sys.stderr)
        return code
    return 0 if chosen.control_plane or tools == TOOLS else code


if __name__ == "__main__":
    sys.exit(main())
