"""The objects of a plain installation, and that a cluster takes them."""

import pytest

from concertina_operator.cluster.install import (
    NAMESPACE,
    NUM_REPLICAS,
    install_objects,
    operator_objects,
    trainer_objects,
)
from concertina_operator.cluster.rights import OPERATOR
from tests.concertina_operator.cluster.installed import apply_all, path_of


def kinds(objects):
    return [entry["kind"] for entry in objects]


def names(objects):
    return {(entry["kind"], entry["metadata"].get("namespace"), entry["metadata"]["name"])
            for entry in objects}  # fmt: skip


def test_come_in_the_order_to_apply_them():
    found = kinds(install_objects(image="i"))

    assert found[0] == "Namespace"
    assert found[-1] == "Deployment"
    assert found.index("ServiceAccount") < found.index("ClusterRoleBinding")


def test_no_trainer_has_rights_that_nothing_fences():
    """Neither while it is installed nor while it is taken away, in the opposite order."""
    found = kinds(trainer_objects(jobs_in="team"))
    fences = [place for place, kind in enumerate(found) if kind.startswith("Validating")]

    assert max(fences) < found.index("CustomResourceDefinition")
    assert max(fences) < min(found.index("ClusterRole"), found.index("RoleBinding"))


def test_the_operator_of_one_namespace_has_nothing_of_a_whole_cluster():
    found = kinds(operator_objects(image="i", namespace="ops", jobs_in="team"))

    assert not [kind for kind in found if kind.startswith("Cluster")]


def test_a_namespace_with_jobs_is_not_part_of_an_installation():
    objects = install_objects(image="i", namespace="team", jobs_in="team")

    assert "Namespace" not in kinds(objects)
    assert {entry["metadata"].get("namespace") for entry in objects} == {None, "team"}


def test_two_installations_share_what_is_not_in_a_namespace():
    first, second = (
        names(install_objects(image="i", namespace=name, jobs_in=name)) for name in ("a", "b")
    )
    common = {entry for entry in first | second if entry[1] is None}

    assert first & second == common
    assert common < names(trainer_objects(jobs_in="a"))


@pytest.mark.parametrize(
    ("jobs_in", "want_arguments"),
    [
        pytest.param(None, [], id="all namespaces"),
        pytest.param("team", ["--namespace", "team"], id="one namespace"),
    ],
)
def test_the_operator_is_told_whom_it_serves(jobs_in, want_arguments):
    deployment = install_objects(image="registry/operator:1", jobs_in=jobs_in)[-1]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]

    assert container["image"] == "registry/operator:1"
    assert container["args"][2:] == want_arguments
    assert deployment["metadata"]["namespace"] == NAMESPACE


def test_replicas_run_under_the_restricted_level_and_one_may_be_evicted(resources, api, namespace):
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": restricted}})
    objects = operator_objects(image="imagined", namespace=namespace, jobs_in=namespace)
    apply_all(api, objects)
    deployment = path_of(objects[-1])
    replicas = api.wait(
        deployment, lambda found: found.get("status", {}).get("replicas"), "no pods were admitted"
    )
    budget = path_of(next(entry for entry in objects if entry["kind"] == "PodDisruptionBudget"))

    assert replicas == NUM_REPLICAS
    assert api.wait(
        budget, lambda found: found.get("status", {}).get("expectedPods"), "no budget"
    ) == NUM_REPLICAS  # fmt: skip


@pytest.mark.parametrize("jobs_in", [None, "default"])
def test_applying_it_again_changes_nothing(api, namespace, jobs_in):
    objects = [
        entry
        for entry in install_objects(image="imagined", namespace=namespace, jobs_in=jobs_in)
        if entry["kind"] not in ("Deployment", "Namespace")
    ]

    def versions():
        return [api.get(path_of(entry))["metadata"]["resourceVersion"] for entry in objects]

    apply_all(api, objects)
    before = versions()
    apply_all(api, objects)

    # The controller writes a budget's status, and the API server that of a definition.
    assert [
        (entry["kind"], old == new)
        for entry, old, new in zip(objects, before, versions(), strict=True)
        if entry["kind"] != "PodDisruptionBudget"
    ] == [(kind, True) for kind in kinds(objects) if kind != "PodDisruptionBudget"]
    for entry in objects:
        if entry["metadata"]["name"] == OPERATOR and "namespace" not in entry["metadata"]:
            api.delete(path_of(entry))
