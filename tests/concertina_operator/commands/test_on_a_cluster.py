"""The commands on a real control plane, of their own because they install and remove."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from concertina_operator.cli import main
from concertina_operator.cluster import paths
from concertina_operator.cluster.install import NAMESPACE, install_objects, operator_objects
from concertina_operator.cluster.pod import build_pod
from concertina_operator.cluster.rights import trainer_binding
from tests.cluster.api import Api, wait_for
from tests.cluster.cluster import Cluster
from tests.cluster.fake_nodes import fake_nodes
from tests.cluster.fixtures import (
    control_plane_of_its_own,
    fresh_namespace,
    obstacle,
    required_or_skipped,
)
from tests.cluster.layout import Level
from tests.concertina_operator.cluster.installed import path_of
from tests.concertina_operator.commands.documents import a_job_document, a_trained_spec

pytestmark = pytest.mark.cluster

IMAGE = "registry.example/concertina:1"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/concertina-operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """Runs commands as a user of the cluster would."""

    cluster: Cluster
    api: Api

    def run(self, *arguments: str, want_exit_code: int = 0, **options: Any) -> Result:
        environment = {"KUBECONFIG": str(self.cluster.kubeconfig)}
        result = CliRunner().invoke(main, arguments, env=environment, **options)
        assert result.exit_code == want_exit_code, result.output
        return result

    def ask(self, *arguments: str) -> Any:
        """The answer to a command, as programs read it."""
        return json.loads(self.run(*arguments, "--output", "json").stdout)


@pytest.fixture(scope="module")
def bare() -> Iterator[Shell]:
    """A cluster without Concertina; its node runs whatever it is given."""
    if reason := obstacle(Level.CONTROL_PLANE):
        required_or_skipped(reason)
    with control_plane_of_its_own() as cluster:
        api = cluster.admin()
        with fake_nodes(api, 1):
            yield Shell(cluster=cluster, api=api)
        api.close()


@pytest.fixture
def shell(bare: Shell) -> Shell:
    """The same with Concertina, by its own command unless an earlier test left it."""
    if bare.api.find(DEPLOYMENT) is None:
        bare.run("install", "--image", IMAGE)
    return bare


@pytest.fixture
def namespace(shell: Shell) -> Iterator[str]:
    with fresh_namespace(shell.cluster) as name:
        yield name


def create_job(shell: Shell, namespace: str) -> dict[str, Any]:
    document = {**a_job_document(), "metadata": {"name": "tiny-lm", "namespace": namespace}}
    return shell.api.create(paths.jobs(namespace), document)


def test_a_cluster_without_an_installation_is_exit_code_2(bare: Shell) -> None:
    bare.run("uninstall", "--delete-jobs", "--yes")
    for arguments in (("status",), ("describe", "tiny"), ("suspend", "tiny"), ("plan", "tiny")):
        result = bare.run(*arguments, want_exit_code=2)
        assert "run concertina install first" in result.stderr


def test_an_installation_is_complete_and_repeating_it_changes_nothing(bare: Shell) -> None:
    bare.run("uninstall", "--delete-jobs", "--yes")
    outcomes = bare.ask("install", "--image", IMAGE)
    # The namespace outlasts an installation.
    assert {
        entry["outcome"] for entry in outcomes if entry["object"] != f"Namespace {NAMESPACE}"
    } == {"created"}
    assert len(outcomes) == len(install_objects(image=IMAGE))
    assert bare.api.get(DEPLOYMENT)["status"]["availableReplicas"] == 2

    again = bare.ask("install", "--image", IMAGE)
    assert {entry["outcome"] for entry in again} == {"unchanged"}

    newer = bare.ask("install", "--image", "registry.example/concertina:2")
    changed = [entry["object"] for entry in newer if entry["outcome"] == "changed"]
    assert changed == [f"Deployment {NAMESPACE}/concertina-operator"]


def test_a_release_of_helm_is_not_written_over(shell: Shell) -> None:
    shell.run("uninstall")
    mark = {"meta.helm.sh/release-name": "first", "meta.helm.sh/release-namespace": "tools"}
    of_release = operator_objects(image=IMAGE)[1]
    of_release["metadata"]["annotations"] = mark
    path = path_of(of_release)
    shell.api.create(path.rpartition("/")[0], of_release)
    result = shell.run("install", "--image", IMAGE, want_exit_code=2)
    shell.api.delete(path)

    assert "ClusterRole concertina-operator is of release tools/first of Helm" in result.stderr
    assert "helm upgrade" in result.stderr
    assert shell.api.find(DEPLOYMENT) is None


def test_what_a_release_of_helm_has_left_is_taken_over(shell: Shell) -> None:
    shell.run("uninstall")
    definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/adaptivetrainingjobs.concertina.dev"
    shell.api.patch(
        definition, {"metadata": {"annotations": {"meta.helm.sh/release-name": "gone"}}}
    )

    shell.run("install", "--image", IMAGE)


def test_a_namespace_is_created_where_there_is_none_and_never_deleted(shell: Shell) -> None:
    options = ("--namespace", "tools", "--timeout", "0")
    path = "/api/v1/namespaces/tools"
    assert "Namespace tools created" in shell.run("install", "--image", IMAGE, *options).stdout
    labels = shell.api.get(path)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"

    assert "Namespace tools kept" in shell.run("uninstall", *options).stdout
    assert "deletionTimestamp" not in shell.api.get(path)["metadata"]


def test_a_namespace_of_somebody_else_is_as_it_was(shell: Shell, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}"
    before = shell.api.get(path)
    options = ("--namespace", namespace, "--timeout", "0")

    installed = shell.run("install", "--image", IMAGE, *options).stdout
    assert f"Namespace {namespace} unchanged" in installed
    removed = shell.run("uninstall", *options).stdout
    assert f"Namespace {namespace} kept" in removed
    shell.run("install", "--image", IMAGE, "--jobs-in", namespace, *options)
    removed = shell.run("uninstall", *options).stdout  # --jobs-in is forgotten
    assert f"Namespace {namespace} kept" in removed
    assert shell.api.get(path) == before


def test_an_operator_that_does_not_start_is_exit_code_1(shell: Shell) -> None:
    with fresh_namespace(shell.cluster) as namespace:
        quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
        shell.api.create(f"/api/v1/namespaces/{namespace}/resourcequotas", quota)
        options = ("--namespace", namespace, "--jobs-in", namespace, "--timeout", "3")
        result = shell.run("install", "--image", IMAGE, *options, want_exit_code=1)
        assert f"Deployment {namespace}/concertina-operator: 0 of 2 replicas" in result.stderr


def test_jobs_outlast_the_operator_unless_they_are_to_be_deleted(
    shell: Shell, namespace: str
) -> None:
    create_job(shell, namespace)
    binding = trainer_binding(namespace)
    bindings = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"
    shell.api.create(bindings, binding)

    text = shell.run("uninstall").stdout
    assert f"Deployment {NAMESPACE}/concertina-operator deleted" in text
    assert "CustomResourceDefinition adaptivetrainingjobs.concertina.dev kept" in text
    assert f"Namespace {NAMESPACE} kept" in text
    assert shell.api.find(paths.jobs(namespace, "tiny-lm")) is not None

    refused = shell.run("uninstall", "--delete-jobs", input="n\n", want_exit_code=1)
    assert "Every job of every namespace will be deleted" in refused.stderr
    assert shell.api.find(paths.jobs(namespace, "tiny-lm")) is not None

    shell.run("uninstall", "--delete-jobs", "--yes")
    assert shell.api.find(paths.jobs(namespace)) is None
    assert shell.api.find(f"{bindings}/{binding['metadata']['name']}") is None


def test_jobs_are_listed_and_described(shell: Shell, namespace: str) -> None:
    here = ("--namespace", namespace)
    assert shell.run("status", *here).stdout == f"no jobs in namespace {namespace}\n"
    assert shell.ask("status", *here) == []

    job = create_job(shell, namespace)
    pod = build_pod(job, a_trained_spec(), name="tiny-lm-0")
    shell.api.create(paths.pods(namespace), pod)
    event = {
        "metadata": {"name": "tiny-lm.1", "namespace": namespace},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "concertina.dev/operator",
        "reportingInstance": "one",
        "action": "Plan",
        "type": "Normal",
        "reason": "PodsCreated",
        "note": "tiny-lm-0 created, 1 wanted",
        "regarding": {
            "apiVersion": "concertina.dev/v1alpha1",
            "kind": "AdaptiveTrainingJob",
            "namespace": namespace,
            "name": "tiny-lm",
            "uid": job["metadata"]["uid"],
        },
    }
    shell.api.create(paths.events(namespace), event)

    _, row = shell.run("status", *here).stdout.splitlines()
    assert row.split()[0] == "tiny-lm"
    assert shell.run("status", "tiny-lm", *here).stdout.splitlines()[1].split()[0] == "tiny-lm"
    (found,) = shell.ask("status", "--all-namespaces")
    assert (found["namespace"], found["name"]) == (namespace, "tiny-lm")

    text = shell.run("describe", "tiny-lm", *here).stdout
    assert text.startswith(f"{namespace}/tiny-lm: ")
    assert "tiny-lm-0" in text
    assert "tiny-lm-0 created, 1 wanted" in text
    document = shell.ask("describe", "tiny-lm", *here)
    assert document["job"]["metadata"]["uid"] == job["metadata"]["uid"]
    assert [entry["metadata"]["name"] for entry in document["pods"]] == ["tiny-lm-0"]
    assert document["membership"] is None
    assert document["reports"] == []
    assert [entry["reason"] for entry in document["events"]] == ["PodsCreated"]


def test_a_job_is_suspended_and_resumed(shell: Shell, namespace: str) -> None:
    create_job(shell, namespace)
    here = ("tiny-lm", "--namespace", namespace)

    def is_suspended() -> bool:
        return bool(shell.api.get(paths.jobs(namespace, "tiny-lm"))["spec"]["suspend"])

    assert "saves a checkpoint and gives back its pods" in shell.run("suspend", *here).stdout
    assert is_suspended()
    assert "suspended already" in shell.run("suspend", *here).stdout
    assert shell.ask("resume", *here) == {
        "namespace": namespace,
        "name": "tiny-lm",
        "suspend": False,
        "changed": True,
    }
    assert not is_suspended()
    assert shell.run("resume", *here).stdout == f"{namespace}/tiny-lm is not suspended\n"


def test_a_plan_is_made_from_what_is_there(shell: Shell, namespace: str) -> None:
    job = create_job(shell, namespace)
    here = ("tiny-lm", "--namespace", namespace)
    assert "then: create pod tiny-lm-0" in shell.run("plan", *here).stdout
    asked = shell.run("plan", *here, "--request", "64").stdout
    assert "result: " in asked

    pod = build_pod(job, a_trained_spec(), name="tiny-lm-0")
    shell.api.create(paths.pods(namespace), pod)
    document = shell.ask("plan", *here)
    assert document["name"] == "tiny-lm"
    assert document["actions"] == []


@pytest.mark.parametrize("command", ["status", "describe", "logs", "suspend", "resume", "plan"])
def test_a_job_that_does_not_exist_is_exit_code_2(
    shell: Shell, namespace: str, command: str
) -> None:
    result = shell.run(command, "nobody", "--namespace", namespace, want_exit_code=2)
    assert result.stderr == f"Error: no job nobody in namespace {namespace}\n"


@pytest.fixture
def person(shell: Shell, namespace: str, tmp_path: Path) -> Callable[..., Result]:
    """Runs a command as somebody whom nobody gave any right yet."""
    path = shell.cluster.service_account_kubeconfig(
        tmp_path / "kubeconfig", namespace=namespace, name="default"
    )

    def run(*arguments: str) -> Result:
        options = (*arguments, "--namespace", namespace)
        return CliRunner().invoke(main, options, env={"KUBECONFIG": str(path)})

    return run


def test_a_user_without_rights_is_told_so(person: Callable[..., Result]) -> None:
    result = person("status")
    assert result.exit_code == 2
    assert "cannot list resource" in result.stderr


@pytest.mark.parametrize(
    ("role", "allowed", "forbidden"),
    [
        pytest.param("view", ("status", "describe", "plan"), ("suspend",), id="view"),
        pytest.param("edit", ("status", "describe", "plan", "suspend", "resume"), (), id="edit"),
    ],
)
def test_a_user_of_the_namespace_has_the_commands_that_the_role_names(
    shell: Shell,
    namespace: str,
    person: Callable[..., Result],
    role: str,
    allowed: Sequence[str],
    forbidden: Sequence[str],
) -> None:
    create_job(shell, namespace)
    group = "rbac.authorization.k8s.io"
    shell.api.create(
        f"/apis/{group}/v1/namespaces/{namespace}/rolebindings",
        {
            "metadata": {"name": "somebody"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
        },
    )
    # The server learns of a binding, and a controller adds rights to a role, moments later.
    wait_for(lambda: person("status", "tiny-lm").exit_code == 0, lambda: f"{role} reads nothing")

    for command in allowed:
        result = person(command, "tiny-lm")
        assert result.exit_code == 0, result.output
    for command in forbidden:
        result = person(command, "tiny-lm")
        assert result.exit_code == 2
        assert "cannot patch resource" in result.stderr
