"""What an installation prints without a cluster."""

import json

import pytest
import yaml
from click.testing import CliRunner, Result

from concertina_operator.cli import main
from concertina_operator.cluster.install import install_objects


def invoke(*arguments: str) -> Result:
    # No command here may look for a cluster.
    return CliRunner().invoke(main, arguments, env={"KUBECONFIG": "/nowhere"})


def test_a_dry_run_prints_all_objects_as_yaml() -> None:
    result = invoke("install", "--image", "registry.example/operator:1", "--dry-run")
    assert result.exit_code == 0, result.output
    objects = install_objects(image="registry.example/operator:1")
    assert list(yaml.safe_load_all(result.stdout)) == objects
    assert "&id" not in result.stdout


def test_a_dry_run_follows_the_options() -> None:
    options = ("--namespace", "tools", "--jobs-in", "ml", "--output", "json")
    result = invoke("install", "--image", "i", "--dry-run", *options)
    assert json.loads(result.stdout) == install_objects(image="i", namespace="tools", jobs_in="ml")


def test_nodes_are_read_by_who_asks_for_it() -> None:
    options = ("--watch-nodes", "--notice-taint", "example.com/going", "--output", "json")
    result = invoke("install", "--image", "i", "--dry-run", *options)
    objects = json.loads(result.stdout)
    assert objects == install_objects(image="i", notice_taints=["example.com/going"])
    (container,) = objects[-1]["spec"]["template"]["spec"]["containers"]
    assert container["args"][2:] == ["--watch-nodes", "--notice-taint", "example.com/going"]
    plain = json.loads(invoke("install", "--image", "i", "--dry-run", "--output", "json").stdout)
    names = {entry["metadata"]["name"] for entry in objects if entry not in plain}
    assert names == {"concertina-operator-nodes", "concertina-operator"}


@pytest.mark.parametrize(
    ("options", "want"),
    [
        pytest.param(["--notice-taint", "x"], "needs --watch-nodes", id="nobody reads it"),
        pytest.param(
            ["--watch-nodes", "--notice-taint", "a=b:NoSchedule"],
            "'a=b:NoSchedule' is no key of a taint",
            id="not only a key",
        ),
    ],
)
def test_a_taint_that_cannot_be_is_refused(options: list[str], want: str) -> None:
    result = invoke("install", "--image", "i", "--dry-run", *options)
    assert (result.exit_code, want in result.output) == (2, True)


def test_jobs_are_not_deleted_without_a_yes() -> None:
    result = CliRunner().invoke(main, ["uninstall", "--delete-jobs"], input="n\n")
    assert result.exit_code == 1
    assert "Every job of every namespace will be deleted" in result.output
