"""The base on which tests build the images: a small Debian with Python, made once by debootstrap.

It stands for python:slim and for an image of torch, which no registry here has. It is kept beside
the binaries as an OCI layout, in a folder named by the recipe. Like the images that it stands for it
has a pip; torch is mounted when a pod runs (pods.py).
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pip

from tests.cluster.build import binaries
from tests.cluster.documents import ARCHITECTURE

SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}
"""Debian's release with a minor version of Python: that of the host, whose torch is mounted."""
INCLUDED = ("ca-certificates", "python3")
LEFT_OUT = ("./dev/*", "./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*")
LEFT_OUT += ("./var/cache/apt/*", "./var/lib/apt/lists/*", "./var/log/*")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


class BaseUnavailable(Exception):
    """The base cannot be made; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """An image in an OCI layout."""

    layout: Path
    digest: str
    """Of its manifest."""


def suite() -> str | None:
    """The release that has this very Python; None if Debian has none."""
    return SUITES.get(sys.version_info[:2])


def site_packages() -> str:
    """Where the base's Python looks for what its administrator installed."""
    major, minor = sys.version_info[:2]
    return f"/usr/local/lib/python{major}.{minor}/dist-packages"


def local_base() -> Base:
    """The base, made if it is not there: about a minute, and a download of 60 MB.

    Raises:
        BaseUnavailable: debootstrap failed, or Debian has no such Python.
    """
    release = suite()
    if release is None:
        version = ".".join(map(str, sys.version_info[:2]))
        raise BaseUnavailable(f"no release of Debian has Python {version}: {SUITES}")
    folder = binaries().parent / f"base-{_key(release)}"
    if not folder.exists():
        _make(folder, release=release)
    return read_base(folder)


def read_base(layout: Path) -> Base:
    """The one image of an OCI layout."""
    index = json.loads((layout / "index.json").read_text())
    return Base(layout=layout, digest=index["manifests"][0]["digest"])


def _key(release: str) -> str:
    recipe = (release, INCLUDED, LEFT_OUT, pip.__version__, ARCHITECTURE)
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]


def _make(folder: Path, *, release: str) -> None:
    """Make it beside its place and rename it: one that was cut leaves no half base."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".base-") as name:
        root, layout = Path(name) / "root", Path(name) / "layout"
        include = f"--include={','.join(INCLUDED)}"
        # In namespaces of its own: what debootstrap mounts goes with it.
        _run(*NAMESPACES, "debootstrap", "--variant=minbase", include, release, str(root))
        _add_pip(root)
        (layout / "blobs" / "sha256").mkdir(parents=True)
        _write_layout(root, layout)
        layout.rename(folder)


def _add_pip(root: Path) -> None:
    """Give it this environment's pip."""
    package = Path(pip.__file__).parent
    target = root / site_packages().lstrip("/")
    ignored = shutil.ignore_patterns("__pycache__")
    for source in (package, package.with_name(f"pip-{pip.__version__}.dist-info")):
        shutil.copytree(source, target / source.name, ignore=ignored)


def _write_layout(root: Path, layout: Path) -> None:
    layer = layout / "layer.tar"
    without = [f"--exclude={pattern}" for pattern in LEFT_OUT]
    tar = ["tar", f"--directory={root}", "--numeric-owner", "--sort=name", *without]
    _run(*tar, "--create", f"--file={layer}", ".")
    with layer.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    size = layer.stat().st_size
    layer.rename(layout / "blobs" / "sha256" / digest)
    config = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {"Env": [f"PATH={PATH}"], "Cmd": ["python3"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    image = "application/vnd.oci.image"
    stored = {"mediaType": f"{image}.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{image}.manifest.v1+json",
        "config": _stored(layout, config, kind=f"{image}.config.v1+json"),
        "layers": [stored],
    }
    index = {
        "schemaVersion": 2,
        "manifests": [_stored(layout, manifest, kind=f"{image}.manifest.v1+json")],
    }
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    (layout / "index.json").write_text(json.dumps(index))


def _stored(layout: Path, document: dict, *, kind: str) -> dict:
    """Write a document into a layout, and return how others refer to it."""
    content = json.dumps(document).encode()
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(content)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}


def _run(*command: str) -> None:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr + done.stdout)[-2000:]
        raise BaseUnavailable(f"`{' '.join(command)}` ended with {done.returncode}:\n{words}")
