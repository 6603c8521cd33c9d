"""Builds the binaries that tests run from Go modules into a cache: `python -m tests.cluster.build`.

The cache is a folder outside the checkout, named by the hash of everything that a binary depends
on, so that branches do not disturb each other and an old binary is never taken for a new one. Each
tool is built beside its place and renamed into it: a build that was cut leaves no half binary, and
the next one goes on with the tool that is missing. Cold: about a quarter of an hour on two cores.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.packages import PackagesMissing, ensure_packages
from tests.cluster.tools import (
    CLUSTER_FAMILY,
    CONTROL_PLANE,
    FAMILIES,
    TOOLS,
    Family,
    Tool,
    family_of,
)

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


STAGES = "kwok-stages.yaml"
"""What imagined nodes and pods do and when, from KWOK's own module."""
STAGE_FILES = (
    "node/fast/node-initialize",
    "node/heartbeat-with-lease/node-heartbeat-with-lease",
    "pod/fast/pod-ready",
    "pod/fast/pod-complete",
    "pod/fast/pod-delete",
)


def binaries(family: Family = CLUSTER_FAMILY) -> Path:
    """The folder of a family's binaries that this checkout wants; it need not exist."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "concertina" / _key(family)


def binary(tool: Tool) -> Path:
    """Where a tool's binary is, or will be."""
    return binaries(family_of(tool)) / tool.name


def missing(tools: Iterable[Tool]) -> tuple[Tool, ...]:
    """Those of the tools that are not built."""
    return tuple(tool for tool in tools if not binary(tool).exists())


def build(tools: Iterable[Tool] = TOOLS) -> Path:
    """Build what is missing of these tools, all of one family, and return its folder.

    Raises:
        BuildFailure: Go or a Debian package is missing, or a build failed.
    """
    wanted = tuple(tools)
    (family,) = {family_of(tool) for tool in wanted}
    folder = binaries(family)
    is_staged = family is not CLUSTER_FAMILY or (folder / STAGES).exists()
    if not missing(wanted) and is_staged:
        return folder
    if shutil.which("go") is None:
        names = ", ".join(tool.name for tool in missing(wanted))
        raise BuildFailure(f"Go is not in PATH, and {names} must be built with it")
    folder.mkdir(parents=True, exist_ok=True)
    with _one_builder(folder):
        if not is_staged:
            _copy_stages(folder)
        for number, tool in enumerate(todo := missing(wanted), start=1):
            print(f"building {tool.name} ({number} of {len(todo)})", flush=True)
            _build_tool(tool, folder=folder)
    return folder


def _key(family: Family) -> str:
    """Sixteen digits that change when anything that goes into a binary of a family does."""
    digest = hashlib.sha256(repr((family.tools, VERSION_FLAGS, STAGE_FILES)).encode())
    folders = [GO / module for module in family.modules]
    names = ("go.mod", "go.sum", "*.go")
    for path in sorted(path for folder in folders for name in names for path in folder.rglob(name)):
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
    # `go list -m` has no folder for a module that was never downloaded.
    found = _go(["go", "mod", "download", "-json", "sigs.k8s.io/kwok"], tool=kwok)
    stages = Path(json.loads(found)["Dir"]) / "kustomize" / "stage"
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
    parser.add_argument("--control-plane", action="store_true", help="its servers and no more")
    chosen = parser.parse_args(arguments)
    code = 1 if os.environ.get(REQUIRED) == "1" else 0
    wanted = [family.tools for family in FAMILIES]
    is_complete = True
    if chosen.control_plane:
        wanted = [CONTROL_PLANE]
    else:
        try:
            ensure_packages()
        except PackagesMissing as error:
            print(f"the control plane without a node: {error}", file=sys.stderr)
            wanted[0], is_complete = CONTROL_PLANE, False
    try:
        for tools in wanted:
            print(build(tools))
    except BuildFailure as error:
        print(f"no test cluster: {error}", file=sys.stderr)
        return code
    return 0 if is_complete else code


if __name__ == "__main__":
    sys.exit(main())
