"""What an installation prints without a cluster."""

import json

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


def test_jobs_are_not_deleted_without_a_yes() -> None:
    result = CliRunner().invoke(main, ["uninstall", "--delete-jobs"], input="n\n")
    assert result.exit_code == 1
    assert "Every job of every namespace will be deleted" in result.output
