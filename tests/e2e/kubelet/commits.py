"""An earlier commit of this repository as users have it: a wheel of it, installed apart.

It is built once and kept outside the checkout. Its own tests lie beside it: the tasks of jobs that
its trainers run are of its time too.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.build import binaries
from tests.cluster.fixtures import required_or_skipped
from tests.cluster.pods import REPOSITORY

PREVIOUS = "5fea867e0f635c74c77fd49979228972c414d3b2"
"""Whose operator and trainers are in use on clusters.

Move it when a release is made: to the commit of the release before that. Until there is one, it is
the first commit with an operator for Kubernetes. It is not moved because a test here fails: what
is stored on clusters and what older pods say must be understood.
"""

_PRINT_OBJECTS = """
import json, sys
from concertina_operator.cluster.install import install_objects
json.dump(install_objects(image="none"), sys.stdout)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One commit's packages, and the tests beside them."""

    folder: Path

    @property
    def import_path(self) -> str:
        """PYTHONPATH, ahead of what is installed in the environment."""
        return f"{self.folder / 'site'}:{self.folder / 'source'}"

    def install_objects(self) -> list[dict[str, Any]]:
        """What its `concertina install` applies."""
        done = subprocess.run(
            [sys.executable, "-c", _PRINT_OBJECTS],
            env=os.environ | {"PYTHONPATH": self.import_path},
            cwd=self.folder,
            check=True,
            capture_output=True,
            text=True,
        )
        objects: list[dict[str, Any]] = json.loads(done.stdout)
        return objects

    def mount(self, pod: dict[str, Any]) -> None:
        """Let the trainer of a pod's spec, made by `python_template`, be this commit's."""
        (trainer,) = pod["containers"]
        path = next(entry for entry in trainer["env"] if entry["name"] == "PYTHONPATH")
        path["value"] = self.import_path
        mount = {"name": "commit", "mountPath": str(self.folder), "readOnly": True}
        trainer["volumeMounts"].append(mount)
        pod["volumes"].append({"name": "commit", "hostPath": {"path": str(self.folder)}})


def installed(commit: str) -> Installed:
    """The commit, built if it is not there; ends the test where the history lacks it."""
    folder = binaries().parent / "commits" / commit
    if not folder.exists():
        if not _is_known(commit):
            required_or_skipped(f"{commit} is not in this checkout: `git fetch --unshallow`")
        _build(commit, folder)
    return Installed(folder=folder)


def _is_known(commit: str) -> bool:
    command = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    return done.returncode == 0


def _build(commit: str, folder: Path) -> None:
    """Build beside the place and rename into it: a build that was cut leaves nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as name:
        place = Path(name) / "commit"
        source = place / "source"
        source.mkdir(parents=True)
        archive = Path(name) / "archive.tar"
        _run(["git", "archive", f"--output={archive}", commit], folder=REPOSITORY)
        _run(["tar", "--extract", f"--file={archive}", f"--directory={source}"], folder=place)
        pip = [sys.executable, "-m", "pip"]
        wheels = Path(name) / "wheels"
        _run([*pip, "wheel", "--no-deps", f"--wheel-dir={wheels}", str(source)], folder=place)
        (wheel,) = wheels.glob("*.whl")
        _run([*pip, "install", "--no-deps", f"--target={place / 'site'}", str(wheel)], folder=place)
        place.rename(folder)


def _run(command: list[str], *, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"`{' '.join(command)}`:\n{done.stdout}{done.stderr}"
