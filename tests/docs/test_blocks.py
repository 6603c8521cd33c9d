"""What pages show is true: manifests validate, Python runs, commands and their options exist."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from concertina_api.manifest import parse_job
from concertina_operator.cli import main
from concertina_operator.cluster.crd import custom_resource_definitions
from tests.cluster.build import binary, missing
from tests.cluster.fixtures import required_or_skipped
from tests.cluster.tools import CONTROL_PLANE, DELIVERY, MONITORING, Tool
from tests.concertina_operator.cluster.installed import GROUP, apply_all
from tests.docs.manifests import PROMETHEUS, jobs
from tests.docs.pages import ROOT, Block, blocks

SYSTEM = {"cat", "cd", "docker", "export", "grep", "python", "sed", "tail"}
"""Programs whose options are not checked here."""
HELM = next(tool for tool in DELIVERY if tool.name == "helm")
KUBECTL = next(tool for tool in CONTROL_PLANE if tool.name == "kubectl")


PROMTOOL = next(tool for tool in MONITORING if tool.name == "promtool")


def run_built(tool: Tool, *arguments: str) -> None:
    """Run a tool of the tests' own, which must find nothing wrong."""
    if missing([tool]):
        required_or_skipped(f"{tool.name} is not built: `make cluster`")
    command = [str(binary(tool)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def api(control_plane):
    """An administrator's connection to an API server that knows the resources."""
    with closing(control_plane.admin()) as connection:
        apply_all(connection, custom_resource_definitions())
        yield connection


def each(language: str) -> pytest.MarkDecorator:
    params = [pytest.param(block, id=block.id) for block in blocks(language)]
    return pytest.mark.parametrize("block", params)


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a shell block."""
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if re.fullmatch("[|;&]+", word):
                yield words
                words = []
            else:
                words.append(word)
        if words:
            yield words


COMMANDS = {
    " ".join(words): pytest.param(words, id=f"{block.id} {' '.join(words)[:60]}")
    for block in blocks("sh")
    for words in commands(block)
}
"""Each once."""


def of(program: str) -> list:
    return [param for param in COMMANDS.values() if param.values[0][0] == program]


@each("yaml")
def test_a_manifest_is_valid(block):
    for job in jobs(block):
        parse_job(job)


@each("yaml")
def test_an_api_server_takes_a_manifest(block, api, namespace):
    path = f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs"
    for job in jobs(block):
        api.create(path, job, dryRun="All", fieldValidation="Strict")


@pytest.mark.cluster
def test_a_configuration_of_prometheus_is_valid(tmp_path):
    (block,) = (block for block in blocks("yaml") if block.title == PROMETHEUS)
    (tmp_path / block.title).write_text(block.text)

    run_built(PROMTOOL, "check", "config", str(tmp_path / block.title))


@each("python")
def test_python_can_be_read(block):
    ast.parse(block.text)


@pytest.fixture
def guide(tmp_path):
    """The files of the guide to models, as they are written, in a folder of their own."""
    found = [one for one in (*blocks("python"), *blocks("yaml")) if one.page == "guides/model.md"]
    for block in found:
        (tmp_path / block.title).write_text(block.text)
    assert {block.title for block in found} == {"tiny.py", "tiny.yaml", "train.py"}
    return tmp_path


def concertina(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "concertina_operator.cli", *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_task_of_the_guide_is_valid_as_it_is_written(guide):
    assert "the run takes 8,192 (2.00 epochs)" in concertina(guide, "validate", "tiny.yaml")


@pytest.mark.matrix
@pytest.mark.parametrize("how", [[], ["--script", "train.py"]], ids=["task", "script"])
def test_the_task_of_the_guide_trains(guide, how):
    assert "completed" in concertina(guide, "run", "tiny.yaml", *how)


@each("console")
def test_a_command_prints_what_the_page_shows(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    command, _, want = block.text.partition("\n")
    program, *arguments = shlex.split(command.removeprefix("$ "))

    answer = CliRunner().invoke(main, arguments)

    assert program == "concertina"
    assert answer.output == want


@pytest.mark.parametrize("words", COMMANDS.values())
def test_a_command_is_known_and_its_files_exist(words):
    known = {"concertina", "helm", "kubectl", "make", "pip", *SYSTEM}
    folders = ("manifests/", "charts/", "docs/", "tests/")

    assert words[0] in known
    for word in words:
        if word.startswith(folders):
            assert (ROOT / word).exists(), word
    if words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None


@pytest.mark.parametrize("words", of("make"))
def test_a_target_of_make_exists(words):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert set(words[1:]) <= set(targets)


@pytest.mark.parametrize("words", of("pip"))
def test_an_extra_exists(words):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"\[(.+)\]", " ".join(words))

    assert set(extras.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("words", of("docker"))
def test_a_stage_of_the_dockerfile_exists(words):
    stages = re.findall(r"^FROM .+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

    assert {words[at + 1] for at, word in enumerate(words) if word == "--target"} <= set(stages)


@pytest.mark.parametrize("words", of("concertina"))
def test_a_command_of_concertina_has_these_options(words):
    group = click.Context(main, info_name="concertina")
    _, command, arguments = main.resolve_command(group, words[1:])
    assert command is not None
    options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    options.add("--help")
    places = sum(isinstance(param, click.Argument) for param in command.params)

    given = [word.partition("=")[0] for word in arguments if word.startswith("-")]

    assert set(given) <= options
    assert bool(places) or not [word for word in arguments[:1] if not word.startswith("-")]


@pytest.mark.cluster
@pytest.mark.parametrize("words", [*of("helm"), *of("kubectl")])
def test_a_command_of_helm_or_kubectl_has_these_options(words):
    """Both read all options before they help."""
    given = words[1 : words.index("--")] if "--" in words else words[1:]

    run_built(HELM if words[0] == "helm" else KUBECTL, *given, "--help")


@pytest.mark.parametrize("words", of("helm"))
def test_a_value_of_the_chart_exists(words):
    values = yaml.safe_load((ROOT / "charts/concertina/values.yaml").read_text())
    for at, word in enumerate(words):
        if word == "--set":
            place = values
            for key in words[at + 1].partition("=")[0].split("."):
                assert key in place, words[at + 1]
                place = place[key]
