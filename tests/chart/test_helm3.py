"""Helm 3 renders the same objects. It is built from its Go module for this test."""

import os
import shutil
import subprocess

import pytest
import yaml

from tests.chart.helm import VALUES, key_of, manifest, render_file
from tests.cluster.fixtures import required_or_skipped

MODULE = "helm.sh/helm/v3"
VERSION = "v3.19.0"
BUILD_SECONDS = 1800


@pytest.fixture(scope="module")
def helm3(tmp_path_factory):
    """The binary; a few minutes where Go has none of it in its cache."""
    if shutil.which("go") is None:
        required_or_skipped("Go is not in PATH, and Helm 3 must be built with it")
    folder = tmp_path_factory.mktemp("helm3")
    (folder / "go.mod").write_text("module build\n\ngo 1.24.0\n")
    # Sums are not looked up: a proxy of modules alone has no database of them.
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOSUMDB": "off"}
    command = f"{MODULE}/cmd/helm"
    build = ("build", "-trimpath", "-o", folder / "helm", command)
    for arguments in (("get", f"{command}@{VERSION}"), build):
        done = subprocess.run(
            ["go", *arguments], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    return folder / "helm"


@pytest.mark.matrix
@pytest.mark.timeout(BUILD_SECONDS)
def test_helm_3_renders_what_helm_4_does(helm3):
    for path in sorted(VALUES.glob("*.yaml")):
        text = manifest(path.read_text(), helm=helm3)
        rendered = {key_of(entry): entry for entry in yaml.safe_load_all(text) if entry}

        assert rendered == {key_of(entry): entry for entry in render_file(path)}, path.name
