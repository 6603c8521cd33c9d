"""BuildKit, as tests run it: one daemon that lives as long as a `with`, and its builds.

It runs as root, in mount and PID namespaces of its own: its end takes all of its mounts along, and
its cgroups are removed. What it has built before stays in a folder beside the binaries, so that a
second build is a matter of seconds; one daemon at a time uses it.
"""

import fcntl
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uv

from tests.cluster.api import wait_for
from tests.cluster.build import binaries, binary
from tests.cluster.isolation import remove_cgroup
from tests.cluster.processes import Process
from tests.cluster.tools import IMAGES, TOOLS
from tests.images.base import NAMESPACES, Base, local_base

BUILDCTL, BUILDKITD = (binary(tool) for tool in IMAGES)
RUNC = next(binary(tool) for tool in TOOLS if tool.name == "runc")
BASE = "localhost/debian:1"
TORCH = "localhost/torch:1"
UV = "localhost/uv:1"
CGROUP = "concertina-images"
START_SECONDS = 60.0
BUILD_SECONDS = 280.0


class BuildFailure(Exception):
    """An image cannot be built; the message holds what BuildKit said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildKit:
    """A daemon that takes builds."""

    address: str
    base: Base
    uv: Path
    """A folder with uv alone: the image that has it is in no registry here."""

    def build(
        self,
        context: Path,
        *,
        target: str,
        output: str,
        arguments: Mapping[str, str] | None = None,
        dockerfile: Path | None = None,
        torch_base: Base | None = None,
        is_fresh: bool = False,
    ) -> None:
        """Build a target of a folder's Dockerfile.

        Args:
            context: The folder that is sent, but for what its .dockerignore names.
            target: The stage.
            output: As `buildctl build --output` has it.
            arguments: Of the build.
            dockerfile: The folder of the Dockerfile, if it is not the context.
            torch_base: What the trainer is built on, if it is not the base of all.
            is_fresh: Build anew what was built before.

        Raises:
            BuildFailure: a step ended with an error.
        """
        given = {"BASE_IMAGE": BASE, "TORCH_IMAGE": TORCH, "UV_IMAGE": UV, **(arguments or {})}
        roots = ssl.get_default_verify_paths().cafile
        command = [str(BUILDCTL), f"--addr={self.address}", "build", "--progress=plain"]
        command += ["--frontend=dockerfile.v0", f"--opt=target={target}", f"--output={output}"]
        command += [f"--opt=cgroup-parent={CGROUP}"]
        command += [f"--local=context={context}", f"--local=dockerfile={dockerfile or context}"]
        for number, (name, base) in enumerate(
            ((BASE, self.base), (TORCH, torch_base or self.base))
        ):
            command += [f"--oci-layout=base-{number}={base.layout}"]
            command += [f"--opt=context:{name}=oci-layout://base-{number}@{base.digest}"]
        command += [f"--local=uv={self.uv}", f"--opt=context:{UV}=local:uv"]
        command += [f"--opt=build-arg:{name}={value}" for name, value in given.items()]
        command += [f"--secret=id=ca,src={roots}"] if roots else []
        command += ["--no-cache"] if is_fresh else []
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS
        )
        if done.returncode:
            raise BuildFailure(f"target {target}:\n{done.stderr[-4000:]}")


@contextmanager
def buildkit() -> Iterator[BuildKit]:
    """A daemon with the base of the tests; ends with the `with`, or with this process.

    Raises:
        BaseUnavailable: there is no base, and none can be made.
    """
    base = local_base()
    state = binaries().parent / "buildkit"
    state.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="concertina-buildkit-") as name, _alone(state):
        place = Path(name)
        (place / "uv").mkdir()
        shutil.copy(uv.find_uv_bin(), place / "uv" / "uv")
        address = f"unix://{place / 'socket'}"
        with (place / "log").open("w") as log:
            daemon = subprocess.Popen(_command(state, address), stdout=log, stderr=log)
        try:
            wait_for(
                lambda: _answers(address, daemon),
                lambda: f"buildkitd: {(place / 'log').read_text()[-2000:]}",
                START_SECONDS,
            )
            yield BuildKit(address=address, base=base, uv=place / "uv")
        finally:
            _end(daemon)


def _command(state: Path, address: str) -> list[str]:
    command = ["setpriv", "--pdeathsig", "KILL", *NAMESPACES, str(BUILDKITD)]
    command += [f"--root={state}", f"--addr={address}", "--containerd-worker=false"]
    command += ["--oci-worker=true", "--oci-worker-net=host", f"--oci-worker-binary={RUNC}"]
    return command


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Wait until nobody else uses the folder; the kernel lets go of it with the process."""
    with (state / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _answers(address: str, daemon: subprocess.Popen[bytes]) -> bool:
    if daemon.poll() is not None:
        raise BuildFailure(f"buildkitd ended with {daemon.returncode}")
    asked = [str(BUILDCTL), f"--addr={address}", "debug", "workers"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def _end(daemon: subprocess.Popen[bytes]) -> None:
    """Let it close what it has open; the kernel ends the rest of its namespaces."""
    root = Process.find(daemon.pid)
    for process in () if root is None else root.children():
        os.kill(process.pid, signal.SIGTERM)
    try:
        daemon.wait(START_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
    remove_cgroup(CGROUP)
