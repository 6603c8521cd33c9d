"""Both images, built from this checkout for the tests, and how they come to a node and run there.

Called by the fixture `images` and by the tests of the chart. The images are built on the base of
base.py: the trainer's has no torch, its pods have that of this environment mounted where the base's
Python looks for what its administrator installed.
"""

import subprocess
import sysconfig
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.build import missing
from tests.cluster.cluster import Cluster
from tests.cluster.components import GPU
from tests.cluster.fixtures import obstacle
from tests.cluster.layout import Level
from tests.cluster.packages import IMAGE_PACKAGES, missing_packages
from tests.cluster.pods import NO_DNS, REPOSITORY
from tests.cluster.tools import IMAGES
from tests.images.base import SUITES, site_packages, suite
from tests.images.buildkit import BuildKit, buildkit

VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
SOURCE = "https://example.com/concertina"
TARGETS = ("operator", "trainer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in an archive of its own."""

    reference: str
    """What a pod names."""
    archive: Path
    """An OCI layout as a tar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What the Dockerfile of this checkout makes."""

    operator: Image
    trainer: Image
    """Without a torch."""
    boms: Path
    """The folder of operator.cdx.json and trainer.cdx.json."""


def images_obstacle() -> str | None:
    """Why there can be no images here; None if there can."""
    if reason := obstacle(Level.NODE):
        return reason
    if absent := missing(IMAGES):
        names = ", ".join(tool.name for tool in absent)
        return f"{names} not built: run `python -m tests.cluster.build`"
    if packages := missing_packages(IMAGE_PACKAGES):
        return f"images need these packages: {' '.join(packages)}"
    if suite() is None:
        known = ", ".join(f"{major}.{minor}" for major, minor in SUITES)
        return f"images are tested with a Python that Debian has: {known}"
    return None


def build_images(folder: Path) -> Images:
    """Build both, into this folder; seconds, where they have been built before.

    Raises:
        BaseUnavailable: the base cannot be made.
        BuildFailure: a step of the Dockerfile ended with an error.
    """
    with buildkit() as builder:
        operator, trainer = (build_image(builder, target, folder=folder) for target in TARGETS)
        boms = folder / "sbom"
        builder.build(REPOSITORY, target="sbom", output=f"type=local,dest={boms}")
    return Images(operator=operator, trainer=trainer, boms=boms)


def build_image(builder: BuildKit, target: str, *, folder: Path, is_fresh: bool = False) -> Image:
    """Build one as a release is built, but uncompressed: nobody sends it anywhere."""
    reference = f"localhost/concertina-{target}:{VERSION}"
    archive = folder / f"{target}.tar"
    form = "rewrite-timestamp=true,compression=uncompressed"
    builder.build(
        REPOSITORY,
        target=target,
        output=f"type=oci,dest={archive},name={reference},{form}",
        arguments=release_arguments(),
        is_fresh=is_fresh,
    )
    return Image(reference=reference, archive=archive)


def release_arguments() -> dict[str, str]:
    """The arguments of a build that tell where an image comes from."""
    return {
        "REVISION": _git("rev-parse", "HEAD"),
        "SOURCE": SOURCE,
        "SOURCE_DATE_EPOCH": _git("log", "-1", "--format=%ct"),
    }


def import_image(cluster: Cluster, image: Image) -> None:
    """Give an image to the node of our own cluster: for pods with imagePullPolicy IfNotPresent.

    Raises:
        subprocess.CalledProcessError: containerd refused it.
    """
    assert cluster.layout is not None, "images can be given to our own node alone"
    # An address that is not absolute is looked for elsewhere.
    address = f"--address={cluster.layout.containerd_socket.absolute()}"
    command = [cluster.layout.binary("ctr"), address, "--namespace=k8s.io", "images", "import"]
    subprocess.run([*command, str(image.archive)], check=True, capture_output=True, text=True)


def torch_template(
    image: Image, *, gpus: int = 1, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A pod template whose container `trainer` is the trainer's image, with this host's torch.

    As if the base had it: the image's own packages come before those that are mounted. It passes
    the level `baseline` of Pod Security but for the volume, which is of the host.
    """
    variables = {"OMP_NUM_THREADS": "1", **(environment or {})}
    container: dict[str, Any] = {
        "name": "trainer",
        "image": image.reference,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "volumeMounts": [{"name": "torch", "mountPath": site_packages(), "readOnly": True}],
    }
    if gpus:
        container["resources"] = {"limits": {GPU: str(gpus)}}
    host = {"name": "torch", "hostPath": {"path": sysconfig.get_path("purelib")}}
    return {
        "metadata": {},
        "spec": {**NO_DNS, "containers": [container], "volumes": [host]},
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()
