"""Runs Helm on the chart: what it renders, and what it refuses. Used by all tests of the chart."""

import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from concertina_operator.cluster.install import NAMESPACE
from tests.cluster.build import binary, missing
from tests.cluster.fixtures import required_or_skipped
from tests.cluster.tools import DELIVERY, Tool

CHART = Path(__file__).parents[2] / "charts/concertina"
VALUES = Path(__file__).with_name("values")
RELEASE = "concertina"
Object = dict[str, Any]


class HelmFailure(Exception):
    """Helm ended with an error; the message is what it printed."""


def delivery(name: str) -> Path:
    """The binary of one of the tools of delivery; ends the test where it is not built."""
    return built(next(tool for tool in DELIVERY if tool.name == name))


def built(tool: Tool) -> Path:
    """The binary of a tool; ends the test where it is not built."""
    if missing([tool]):
        required_or_skipped(f"{tool.name} not built: run `python -m tests.cluster.build`")
    return binary(tool)


def run_helm(*arguments: str, kubeconfig: Path | None = None, helm: Path | None = None) -> str:
    """What Helm prints; it sees no file of the user.

    Raises:
        HelmFailure: it ended with an error.
    """
    program = helm or delivery("helm")
    with tempfile.TemporaryDirectory(prefix="helm-") as home:
        names = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HOME")
        environment = dict.fromkeys(names, home) | {"PATH": ""}
        environment["KUBECONFIG"] = str(kubeconfig or Path(home) / "no-cluster")
        done = subprocess.run(
            [program, *arguments], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise HelmFailure(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def render(values: Mapping[str, Any] | None = None, **options: Any) -> list[Object]:
    """The objects that the chart makes with these values, hooks included.

    `options` are those of `manifest`.
    """
    return list(_rendered(yaml.safe_dump(dict(values or {})), tuple(sorted(options.items()))))


def render_file(path: Path, **options: Any) -> list[Object]:
    """The same with a file of values."""
    return render(yaml.safe_load(path.read_text()), **options)


def manifest(
    values: str,
    *,
    namespace: str = NAMESPACE,
    release: str = RELEASE,
    kube_version: str = "1.36.0",
    helm: Path | None = None,
) -> str:
    """The text that `helm template` prints for these values, which are YAML.

    Raises:
        HelmFailure: the values are refused.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(values)
        file.flush()
        return run_helm(
            *("template", release, str(CHART), "--namespace", namespace),
            *("--values", file.name, "--kube-version", kube_version),
            helm=helm,
        )


@cache
def _rendered(values: str, options: tuple[tuple[str, Any], ...]) -> tuple[Object, ...]:
    text = manifest(values, **dict(options))
    return tuple(entry for entry in yaml.safe_load_all(text) if entry is not None)


def is_hook(entry: Object) -> bool:
    """Whether Helm makes the object only for a moment, such as a test."""
    return "helm.sh/hook" in entry["metadata"].get("annotations", {})


def key_of(entry: Object) -> tuple[str, str | None, str]:
    """Kind, namespace and name of an object."""
    metadata = entry["metadata"]
    return entry["kind"], metadata.get("namespace"), metadata["name"]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """Those of a kind."""
    return [entry for entry in objects if entry["kind"] == kind]


def only(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """The one object of a kind, or of a kind and name."""
    found = [
        entry
        for entry in of_kind(objects, kind)
        if name is None or entry["metadata"]["name"] == name
    ]
    assert len(found) == 1, [key_of(entry) for entry in objects]
    return found[0]
