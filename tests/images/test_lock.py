"""The lock and the Dockerfile agree with pyproject.toml, and name nothing of this machine."""

import re
import subprocess
import tomllib

import pytest
import uv

from tests.cluster.pods import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
LOCK = tomllib.loads((REPOSITORY / "uv.lock").read_text())
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
PUBLIC = ("https://pypi.org/", "https://files.pythonhosted.org/")


def argument(name):
    """The value that the Dockerfile gives an argument."""
    return re.search(rf"^ARG {name}=(\S+)$", DOCKERFILE, re.MULTILINE)[1]


def test_the_lock_is_that_of_the_project(tmp_path):
    command = [uv.find_uv_bin(), "lock", "--check", "--offline", f"--cache-dir={tmp_path}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run `uv lock`: {done.stderr}"


def test_the_lock_names_public_addresses_alone_with_a_hash_for_each_file():
    text = (REPOSITORY / "uv.lock").read_text()
    addresses = re.findall(r'"(\w+://[^"]*)"', text)
    assert addresses
    assert [one for one in addresses if not one.startswith(PUBLIC)] == []
    ours, *others = sorted(LOCK["package"], key=lambda package: "registry" in package["source"])
    assert ours["name"] == "concertina-training"
    files = [f for package in others for f in (*package.get("wheels", ()), package.get("sdist"))]
    assert all(file["hash"].startswith("sha256:") for file in files if file)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        pytest.param("VERSION", PROJECT["project"]["version"], id="version"),
        pytest.param(
            "UV_IMAGE",
            "ghcr.io/astral-sh/uv:"
            + next(
                group.removeprefix("uv==")
                for group in PROJECT["dependency-groups"]["supply"]
                if str(group).startswith("uv==")
            ),
            id="uv",
        ),
    ],
)
def test_the_dockerfile_has_the_projects_versions(name, want):
    assert argument(name) == want


def test_the_torch_of_the_trainers_base_is_the_one_that_is_locked():
    (locked,) = {package["version"] for package in LOCK["package"] if package["name"] == "torch"}
    assert f":{locked}-" in argument("TORCH_IMAGE")
