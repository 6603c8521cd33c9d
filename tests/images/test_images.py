"""What both images say of themselves, what is in them, and that their commands start."""

import json
import sysconfig
from datetime import UTC, datetime

import pytest

from tests.images.__main__ import PAGE, page_of
from tests.images.archives import REMOVED, describe, entries, opened, unpack
from tests.images.base import site_packages
from tests.images.containers import Container
from tests.images.images import SOURCE, TARGETS, VERSION, release_arguments

OURS = "opt/concertina/"
UNCHECKED_HASH = 1
"""The flags of compiled code that holds no time and is taken as it is (PEP 552)."""
FIND = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
ORIGINS = """
import numpy, pydantic, safetensors.torch, torch
import concertina_trainer.agent.__main__, concertina_trainer.sharding
print(*(module.__file__ for module in (numpy, torch, pydantic, safetensors, concertina_trainer)))
"""


@pytest.fixture(params=TARGETS)
def image(request, images):
    return getattr(images, request.param)


@pytest.fixture(scope="module")
def containers(images, tmp_path_factory):
    """Both images, unpacked; the trainer's with this environment's torch, as in the tests' pods."""
    mounts = {"operator": {}, "trainer": {site_packages(): sysconfig.get_path("purelib")}}
    made = {}
    for target in TARGETS:
        archive, root = getattr(images, target).archive, tmp_path_factory.mktemp(target)
        unpack(archive, root)
        config = describe(archive).config
        made[target] = Container(
            root=root,
            user=config["User"],
            environment=tuple(config["Env"]),
            mounts=mounts[target],
        )
    return made


def added(image):
    """The layers above the base."""
    return describe(image.archive).layers[1:]


def files_added(image):
    return {path: e for layer in added(image) for path, e in entries(image.archive, layer).items()}


@pytest.mark.parametrize("target", TARGETS)
def test_labels_tell_what_an_image_is_and_where_it_comes_from(images, target):
    found = describe(getattr(images, target).archive)
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in found.config["Labels"].items()
    }
    given = release_arguments()
    assert labels.pop("description")
    assert labels == {
        "title": f"Concertina {target}",
        "licenses": "Apache-2.0",
        "version": VERSION,
        "revision": given["REVISION"],
        "source": SOURCE,
    }
    committed = datetime.fromtimestamp(int(given["SOURCE_DATE_EPOCH"]), tz=UTC)
    # A layer that the builder already had keeps its own, earlier time.
    assert datetime.fromisoformat(found.created) <= committed


@pytest.mark.parametrize(
    ("target", "want_module"),
    [
        pytest.param("operator", "concertina_operator.cluster", id="operator"),
        pytest.param("trainer", "concertina_trainer.agent", id="trainer"),
    ],
)
def test_an_image_runs_its_module_as_a_user_without_rights(images, target, want_module):
    config = describe(getattr(images, target).archive).config
    assert config["User"] == "65532:65532"
    assert config["Cmd"] == ["python3", "-m", want_module]
    assert not {"Entrypoint", "Healthcheck", "Volumes"} & config.keys()


def test_all_that_is_added_lies_in_one_folder_that_only_root_may_write_to(image):
    found = files_added(image)
    outside = {
        path
        for path, entry in found.items()
        if not f"{path}/".startswith(OURS) and not entry.isdir() and REMOVED not in path
    }
    assert outside == set()
    within = [e for path, e in found.items() if path.startswith(OURS)]
    assert {(entry.uid, entry.gid) for entry in within} == {(0, 0)}
    assert [e.name for e in within if not e.issym() and e.mode & 0o6022] == []


def test_nothing_that_is_added_depends_on_when_it_was_built(image):
    committed = int(release_arguments()["SOURCE_DATE_EPOCH"])
    assert max(entry.mtime for entry in files_added(image).values()) <= committed
    flags = set()
    for layer in added(image):
        with opened(image.archive, layer) as tar:
            compiled = [entry for entry in tar if entry.name.endswith(".pyc")]
            flags |= {tar.extractfile(entry).read(8)[4] for entry in compiled}
    assert flags == {UNCHECKED_HASH}


def test_the_bill_of_materials_lists_what_is_installed_and_nothing_else(images):
    for target, of_the_base in (("operator", set()), ("trainer", {"pip"})):
        image = getattr(images, target)
        path = f"{OURS}sbom.cdx.json"
        (layer,) = (one for one in added(image) if path in entries(image.archive, one))
        with opened(image.archive, layer) as tar:
            content = tar.extractfile(path).read()
        installed = {
            entry.split("/")[-2].removesuffix(".dist-info")
            for entry in entries(image.archive, layer)
            if entry.endswith(".dist-info/METADATA")
        }
        bill = json.loads(content)
        root = bill["metadata"]["component"]
        listed = {one["name"]: one["version"] for one in (*bill["components"], root)}
        from_the_base = {name: listed.pop(name) for name in of_the_base}
        assert from_the_base.keys() == of_the_base
        assert {f"{name.replace('-', '_')}-{listed[name]}".lower() for name in listed} == {
            name.lower() for name in installed
        }
        assert (images.boms / f"{target}.cdx.json").read_bytes() == content


def test_the_operator_has_neither_torch_nor_anything_that_installs_packages(containers):
    unwanted = (
        "torch",
        "numpy",
        "pip",
        "ensurepip",
        "setuptools",
        "uv",
        "hatchling",
        "cyclonedx_py",
    )
    done = containers["operator"].run("python3", "-c", FIND, "concertina_operator", *unwanted)
    assert done.stdout.strip() == "['concertina_operator']", done.stderr
    found = containers["operator"].run("sh", "-c", "command -v pip pip3 uv; command -v concertina")
    assert found.stdout.split() == ["/opt/concertina/bin/concertina"]


@pytest.mark.parametrize(
    ("command", "want_code", "want"),
    [
        pytest.param(
            ("python3", "-m", "concertina_operator.cluster"),
            1,
            "no cluster: this is no pod",
            id="pod",
        ),
        pytest.param(("concertina-operator", "--help"), 0, "--lease-namespace", id="operator"),
        pytest.param(("concertina", "--help"), 0, "install", id="concertina"),
    ],
)
def test_the_operators_commands_start_where_nothing_can_be_written(
    containers, command, want_code, want
):
    done = containers["operator"].run(*command)
    assert want in done.stdout + done.stderr
    assert done.returncode == want_code
    touched = containers["operator"].run("touch", "/tmp/file")
    assert "Read-only file system" in touched.stderr


def test_the_trainer_uses_the_torch_of_its_base_and_brings_all_else(containers):
    done = containers["trainer"].run("python3", "-c", ORIGINS)
    assert done.returncode == 0, done.stderr
    numpy, torch, *brought = done.stdout.split()
    assert numpy.startswith(f"{site_packages()}/numpy/")
    assert torch.startswith(f"{site_packages()}/torch/")
    assert len(brought) == 3
    assert all(path.startswith("/opt/concertina/") for path in brought), brought


def test_the_page_of_licences_is_that_of_the_packages_in_the_images(images):
    assert PAGE.read_text() == page_of(images), "run `python -m tests.images licences`"
