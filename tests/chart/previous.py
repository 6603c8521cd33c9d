"""The release before the present one: this chart around what an earlier commit installs.

Its definitions, rights and policies are that commit's, its images are of that commit's wheel.
"""

import shutil
from pathlib import Path
from typing import Any

import yaml

from concertina_operator.cluster.rights import OPERATOR, TRAINER
from tests.chart.helm import CHART
from tests.cluster.pods import REPOSITORY
from tests.e2e.kubelet.commits import Installed, installed
from tests.images.buildkit import BuildKit
from tests.images.images import Image, release_arguments

PREVIOUS_RELEASE = "1fb65df87a38618c8a8341d7c597838a61f2796c"
"""The last commit without a chart. When a release is made, its commit takes this place."""
RECIPE = ("Dockerfile", ".dockerignore", "pyproject.toml", "uv.lock")
"""What says how an image is made: it is today's."""
RBAC = "rbac.authorization.k8s.io"


def previous_release() -> Installed:
    """That commit; ends the test where the history lacks it."""
    return installed(PREVIOUS_RELEASE)


def previous_chart(release: Installed, folder: Path) -> Path:
    """A copy of the chart with what that commit installs, in this folder."""
    shutil.copytree(CHART, folder)
    objects = release.install_objects()
    files = {
        "crd.yaml": yaml.safe_dump_all(_of_kind(objects, "CustomResourceDefinition")),
        "policies.yaml": yaml.safe_dump_all(
            entry for entry in objects if entry["kind"].startswith("ValidatingAdmissionPolicy")
        ),
        "rules.yaml": yaml.safe_dump(_rules(objects)),
    }
    for name, text in files.items():
        (folder / "files" / name).write_text(text)
    return folder


def previous_images(builder: BuildKit, release: Installed, folder: Path) -> list[Image]:
    """Its operator and its trainer, built into this folder."""
    context = folder / "context"
    source = release.folder / "source"
    shutil.copytree(source, context, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    for name in RECIPE:
        shutil.copy(REPOSITORY / name, context / name)
    made = []
    for target in ("operator", "trainer"):
        image = Image(
            reference=f"localhost/concertina-{target}:previous", archive=folder / f"{target}.tar"
        )
        output = f"type=oci,dest={image.archive},name={image.reference},compression=uncompressed"
        builder.build(context, target=target, output=output, arguments=release_arguments())
        made.append(image)
    return made


def _rules(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The lists of rules that the chart's templates ask for, by name."""
    rules = {entry["metadata"]["name"]: entry["rules"] for entry in objects if "rules" in entry}
    everywhere = [rule for rule in rules[OPERATOR] if rule["apiGroups"] == [RBAC]]
    return {
        "operator": [rule for rule in rules[OPERATOR] if rule not in everywhere],
        "operatorOfAll": everywhere,
        "lease": rules[f"{OPERATOR}-lease"],
        "trainer": rules[TRAINER],
        "view": rules["concertina-view"],
        "edit": rules["concertina-edit"],
    }


def _of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [entry for entry in objects if entry["kind"] == kind]
