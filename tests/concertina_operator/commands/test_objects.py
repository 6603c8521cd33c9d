"""Where objects live and whether they do their work."""

from typing import Any

import pytest

from concertina_operator.commands.objects import content_of, hindrance, label, path_of


@pytest.mark.parametrize(
    ("version", "kind", "metadata", "want_path", "want_label"),
    [
        pytest.param(
            "v1",
            "Namespace",
            {"name": "a"},
            "/api/v1/namespaces/a",
            "Namespace a",
            id="core",
        ),
        pytest.param(
            "apps/v1",
            "Deployment",
            {"name": "a", "namespace": "b"},
            "/apis/apps/v1/namespaces/b/deployments/a",
            "Deployment b/a",
            id="namespaced",
        ),
        pytest.param(
            "admissionregistration.k8s.io/v1",
            "ValidatingAdmissionPolicy",
            {"name": "a"},
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/a",
            "ValidatingAdmissionPolicy a",
            id="plural-with-ies",
        ),
    ],
)
def test_an_object_has_a_path_and_a_name(
    version: str, kind: str, metadata: dict[str, str], want_path: str, want_label: str
) -> None:
    document = {"apiVersion": version, "kind": kind, "metadata": metadata}
    assert path_of(document) == want_path
    assert label(document) == want_label


def test_what_the_cluster_says_is_no_content() -> None:
    written = {"metadata": {"name": "a", "labels": {"b": "c"}}, "spec": {"d": 1}}
    stored = {
        "metadata": {**written["metadata"], "resourceVersion": "7", "generation": 2},
        "spec": {"d": 1},
        "status": {"conditions": []},
    }
    assert content_of(written) == content_of(stored)
    assert content_of(written) != content_of({**stored, "spec": {"d": 2}})
    assert content_of(written) != content_of({**stored, "metadata": {"name": "a"}})


def a_deployment(generation: int = 1, **status: Any) -> dict[str, Any]:
    return {
        "kind": "Deployment",
        "metadata": {"generation": generation},
        "spec": {"replicas": 2},
        "status": status,
    }


QUOTA = {"type": "Available", "status": "False", "message": "no minimum availability"}


@pytest.mark.parametrize(
    ("document", "want"),
    [
        pytest.param({"kind": "ClusterRole"}, None, id="a-kind-that-only-exists"),
        pytest.param({"kind": "CustomResourceDefinition"}, "not established", id="definition"),
        pytest.param(
            {
                "kind": "CustomResourceDefinition",
                "status": {"conditions": [{"type": "Established", "status": "True"}]},
            },
            None,
            id="established-definition",
        ),
        pytest.param(a_deployment(), "not seen by its controller", id="new-deployment"),
        pytest.param(
            a_deployment(2, observedGeneration=1, availableReplicas=2, updatedReplicas=2),
            "not seen by its controller",
            id="changed-deployment",
        ),
        pytest.param(
            a_deployment(observedGeneration=1, availableReplicas=1, conditions=[QUOTA]),
            "0 of 2 replicas available: no minimum availability",
            id="replicas-of-an-older-version",
        ),
        pytest.param(
            a_deployment(observedGeneration=1, availableReplicas=2, updatedReplicas=2),
            None,
            id="available-deployment",
        ),
    ],
)
def test_an_object_that_does_not_do_its_work_says_why(
    document: dict[str, Any], want: str | None
) -> None:
    assert hindrance(document) == want
