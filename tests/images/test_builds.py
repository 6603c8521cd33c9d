"""How the images are built: from what, and twice the same."""

import shutil
import tarfile

import pytest

from tests.cluster.fixtures import required_or_skipped
from tests.cluster.pods import REPOSITORY
from tests.images.archives import describe
from tests.images.base import read_base, site_packages
from tests.images.buildkit import BuildFailure, buildkit
from tests.images.images import TARGETS, build_image, images_obstacle

pytestmark = pytest.mark.cluster
EVERYTHING = "FROM scratch\nCOPY . /\n"
DECOYS = (
    ".git/config",
    ".env",
    "id_ed25519",
    "kubeconfig",
    "operator/.env",
    "operator/concertina_operator/__pycache__/cli.cpython-311.pyc",
    "runs/minimal/checkpoints/latest",
    "tests/images/test_builds.py",
    "trainer/concertina_trainer/.secret",
    "wheels/torch.whl",
)


@pytest.fixture(scope="module")
def builder():
    if reason := images_obstacle():
        required_or_skipped(reason)
    with buildkit() as running:
        yield running


def test_nothing_but_the_sources_of_the_wheel_is_sent_to_the_builder(builder, tmp_path):
    context = tmp_path / "context"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("operator", "trainer"):
        shutil.copytree(REPOSITORY / name, context / name, ignore=ignored)
    for name in (
        "pyproject.toml",
        "uv.lock",
        "README.md",
        "LICENSE",
        ".dockerignore",
        "Dockerfile",
    ):
        shutil.copy(REPOSITORY / name, context)
    sources = {path.relative_to(context).as_posix() for path in context.rglob("*.*")}
    for name in DECOYS:
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text("secret")
    (tmp_path / "Dockerfile").write_text(EVERYTHING)
    sent = tmp_path / "sent.tar"
    builder.build(context, target="", output=f"type=tar,dest={sent}", dockerfile=tmp_path)
    with tarfile.open(sent) as tar:
        found = {entry.name for entry in tar if entry.isfile()}
    assert found == {*sources, "LICENSE"} - {".dockerignore", "Dockerfile"}


def test_a_build_fails_where_its_version_is_not_that_of_the_project(builder, tmp_path):
    with pytest.raises(BuildFailure, match=r"concertina-training==9\.9\.9"):
        builder.build(
            REPOSITORY,
            target="operator-files",
            output=f"type=tar,dest={tmp_path / 'none.tar'}",
            arguments={"VERSION": "9.9.9"},
        )


@pytest.mark.matrix
def test_a_base_with_another_torch_than_the_trainer_asks_for_is_refused(builder, tmp_path):
    folder = f"{site_packages()}/torch-2.8.0.dist-info"
    metadata = r"Metadata-Version: 2.1\nName: torch\nVersion: 2.8.0\n"
    (tmp_path / "Dockerfile").write_text(
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS old\n"
        f"RUN mkdir {folder} && printf '{metadata}' > {folder}/METADATA"
    )
    layout = tmp_path / "layout"
    builder.build(tmp_path, target="old", output=f"type=oci,tar=false,dest={layout}")
    want = r"TORCH_IMAGE has torch 2\.8\.0; the trainer asks for <2\.16,>=2\.15"
    with pytest.raises(BuildFailure, match=want):
        builder.build(
            REPOSITORY,
            target="trainer",
            output=f"type=tar,dest={tmp_path / 'none.tar'}",
            torch_base=read_base(layout),
        )


@pytest.mark.matrix
@pytest.mark.parametrize("target", TARGETS)
def test_two_builds_of_one_commit_have_the_same_layers(builder, tmp_path, target):
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        image = build_image(builder, target, folder=tmp_path / name, is_fresh=True)
        found.append(describe(image.archive))
    assert found[0] == found[1]
