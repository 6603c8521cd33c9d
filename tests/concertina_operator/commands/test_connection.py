"""What is said when there is no cluster to talk to."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from concertina_operator.cli import main
from concertina_operator.commands.connection import connect


def a_kubeconfig(folder: Path, *, server: str = "https://127.0.0.1:1") -> Path:
    context = {"cluster": "c", "user": "u"}
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "first",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [
            {"name": "first", "context": {**context, "namespace": "ml"}},
            {"name": "second", "context": context},
        ],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = a_kubeconfig(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("context", "namespace", "want"),
    [
        pytest.param(None, None, "ml", id="of-the-current-context"),
        pytest.param("second", None, "default", id="of-a-context-without-one"),
        pytest.param("second", "other", "other", id="as-asked-for"),
    ],
)
def test_the_namespace_is_the_contexts_unless_it_is_given(
    kubeconfig: Path, context: str | None, namespace: str | None, want: str
) -> None:
    assert connect(context=context, namespace=namespace).namespace == want


COMMANDS = [
    pytest.param(("status",), id="status"),
    pytest.param(("describe", "tiny"), id="describe"),
    pytest.param(("logs", "tiny"), id="logs"),
    pytest.param(("suspend", "tiny"), id="suspend"),
    pytest.param(("resume", "tiny"), id="resume"),
    pytest.param(("plan", "tiny"), id="plan"),
    pytest.param(("install", "--image", "i"), id="install"),
    pytest.param(("uninstall",), id="uninstall"),
]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_no_kubeconfig_is_a_message_and_exit_code_2(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: no cluster: ")
    assert "nowhere" in result.stderr


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_server_that_does_not_answer_is_a_message_and_exit_code_2(
    arguments: tuple[str, ...], kubeconfig: Path
) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert "the API server does not answer" in result.stderr


def test_a_context_that_does_not_exist_is_exit_code_2(kubeconfig: Path) -> None:
    result = invoke("status", "--context", "third")
    assert result.exit_code == 2
    assert "third" in result.stderr


def test_a_kubeconfig_that_is_no_yaml_is_exit_code_2(kubeconfig: Path) -> None:
    kubeconfig.write_text("{a: b: c")
    result = invoke("status")
    assert result.exit_code == 2
    assert "no cluster" in result.stderr


def test_a_missing_package_names_the_extra(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes.config", None)
    result = invoke("status")
    assert result.exit_code == 2
    assert "pip install 'concertina-training[operator]'" in result.stderr


def test_nothing_of_the_operator_is_needed_without_a_cluster() -> None:
    program = (
        "import sys\n"
        "for name in ('aiohttp', 'kopf', 'kubernetes', 'prometheus_client'):\n"
        "    sys.modules[name] = None\n"
        "from concertina_operator.cli import main\n"
        "main(['install', '--image', 'i', '--dry-run'])"
    )
    got = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
