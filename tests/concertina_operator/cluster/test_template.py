"""What is wrong with a template, in words."""

from typing import Any

import pytest

from concertina_api.errors import InvalidJob
from concertina_operator.cluster.template import (
    read_template,
    template_faults,
    template_hash,
    trainer_container_name,
)
from tests.concertina_operator.cluster.templates import a_container, a_templated_spec
from tests.concertina_operator.factories import a_spec

GPU = "nvidia.com/gpu"


@pytest.mark.parametrize(
    ("template", "want"),
    [
        pytest.param({}, "spec.pods.template.spec: Field required", id="no-template"),
        pytest.param({"spec": []}, "spec.pods.template.spec: Input should be", id="list-as-spec"),
        pytest.param(
            {"spec": {"containers": ["trainer"]}},
            "spec.pods.template.spec.containers.0: Input should be",
            id="text-as-container",
        ),
        pytest.param(
            {"spec": {"containers": [{"image": "a"}]}},
            "spec.pods.template.spec.containers.0.name: Field required",
            id="nameless-container",
        ),
        pytest.param(
            {"spec": {"containers": [a_container(env={"A": "b"})]}},
            "spec.pods.template.spec.containers.0.env: Input should be a valid tuple",
            id="mapping-as-env",
        ),
        pytest.param(
            {"metadata": {"labels": {"team": 7}}, "spec": {"containers": [a_container()]}},
            "spec.pods.template.metadata.labels.team: Input should be a valid string",
            id="number-as-label",
        ),
        pytest.param(
            {"spec": {"containers": [a_container()], "terminationGracePeriodSeconds": -1}},
            "spec.pods.template.spec.terminationGracePeriodSeconds: Input should be greater",
            id="negative-grace",
        ),
    ],
)
def test_a_value_of_a_wrong_type_is_named(template: dict[str, Any], want: str) -> None:
    spec = a_spec(pods={"template": template})
    (fault,) = template_faults(spec)
    assert fault.startswith(want)
    with pytest.raises(InvalidJob, match=r"^spec\.pods\.template"):
        read_template(spec)


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        pytest.param(
            a_templated_spec(restartPolicy="OnFailure"),
            "spec.pods.template.spec.restartPolicy is OnFailure; it must be Never:"
            " the operator replaces pods",
            id="restart-policy",
        ),
        pytest.param(
            a_templated_spec(a_container(restartPolicy="Always")),
            "container trainer: restartPolicy is Always with 0 rules; it must be Never without"
            " rules: the operator replaces pods",
            id="restart-policy-of-the-trainer",
        ),
        pytest.param(
            a_templated_spec(
                a_container(
                    restartPolicy="Never",
                    restartPolicyRules=[{"action": "Restart", "exitCodes": {"operator": "In"}}],
                )
            ),
            "container trainer: restartPolicy is Never with 1 rules; it must be Never without"
            " rules: the operator replaces pods",
            id="restart-rules-of-the-trainer",
        ),
        pytest.param(
            a_templated_spec(a_container(env=[{"name": "CONCERTINA_POD", "value": "me"}])),
            "container trainer: variables with CONCERTINA_ are the operator's, got CONCERTINA_POD",
            id="operators-variable",
        ),
        pytest.param(
            a_templated_spec(a_container(resources={"limits": {GPU: 4}}), workers=8),
            f"container trainer: limit {GPU} is 4, but workersPerPod is 8;"
            " every worker has one GPU",
            id="gpus-and-workers",
        ),
        pytest.param(
            a_spec(pods={"template": {"spec": {"containers": []}}}),
            "spec.pods.template.spec.containers is empty; a pod has a container that trains",
            id="no-container",
        ),
        pytest.param(
            a_templated_spec({"name": "a", "image": "i"}, {"name": "b", "image": "i"}),
            "spec.pods.template.spec.containers has 2 containers (a, b);"
            " one of several must be named trainer",
            id="no-trainer",
        ),
        pytest.param(
            a_templated_spec(metadata={"labels": {"concertina.dev/job": "another"}}),
            "spec.pods.template.metadata.labels: concertina.dev/ is the operator's,"
            " got concertina.dev/job",
            id="operators-label",
        ),
        pytest.param(
            a_templated_spec(metadata={"annotations": {"x.concertina.dev/y": ""}}),
            "spec.pods.template.metadata.annotations: concertina.dev/ is the operator's,"
            " got x.concertina.dev/y",
            id="operators-annotation",
        ),
        pytest.param(
            a_templated_spec(metadata={"name": "mine"}),
            "spec.pods.template.metadata.name is not for a template;"
            " it takes labels and annotations",
            id="name",
        ),
        pytest.param(
            a_templated_spec(metadata={"finalizers": ["example.com/mine"]}),
            "spec.pods.template.metadata.finalizers is not for a template;"
            " it takes labels and annotations",
            id="finalizer",
        ),
        pytest.param(
            a_templated_spec(volumes=[{"name": "concertina-token", "emptyDir": {}}]),
            "spec.pods.template.spec.volumes: names with concertina- are the operator's,"
            " got concertina-token",
            id="operators-volume",
        ),
        pytest.param(
            a_templated_spec(
                a_container(
                    volumeMounts=[{"name": "v", "mountPath": "/var/run/secrets/concertina.dev/"}]
                )
            ),
            "container trainer: /var/run/secrets/concertina.dev is where the operator mounts"
            " the pod's token",
            id="operators-folder",
        ),
    ],
)
def test_a_conflict_is_said_in_words(spec: Any, want: str) -> None:
    assert template_faults(spec) == (want,)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(a_templated_spec(), id="only-what-is-needed"),
        pytest.param(a_templated_spec({"name": "main", "image": "i"}), id="one-of-another-name"),
        pytest.param(a_templated_spec(a_container(), {"name": "proxy"}), id="a-sidecar"),
        pytest.param(a_templated_spec(restartPolicy="Never"), id="the-same-restart-policy"),
        pytest.param(
            a_templated_spec(a_container(resources={"limits": {GPU: "2"}}), workers=2),
            id="as-many-gpus-as-workers",
        ),
        pytest.param(
            a_templated_spec(
                a_container(), {"name": "gpus", "resources": {"limits": {GPU: 1}}}, workers=2
            ),
            id="a-sidecar-with-gpus",
        ),
        pytest.param(
            a_templated_spec(
                a_container(
                    env=[
                        {"name": "CONCERTINA_LOG_LEVEL", "value": "DEBUG"},
                        {"name": "CONCERTINA_LOG_FORMAT", "value": "text"},
                    ]
                )
            ),
            id="the-users-variables",
        ),
        pytest.param(
            a_templated_spec(
                a_container(env=None, ports=None), metadata={"creationTimestamp": None}
            ),
            id="nulls-are-absent",
        ),
    ],
)
def test_a_template_without_conflict_has_no_fault(spec: Any) -> None:
    assert template_faults(spec) == ()


def test_every_conflict_is_named_at_once() -> None:
    container = a_container(env=[{"name": "CONCERTINA_X"}], resources={"limits": {GPU: 3}})
    assert len(template_faults(a_templated_spec(container, restartPolicy="Always"))) == 3


def test_a_document_that_no_environment_takes_is_a_fault() -> None:
    template = {"spec": {"containers": [a_container()]}}
    spec = a_spec(pods={"template": template}, config={"text": "x" * 100_000})
    (fault,) = template_faults(spec)
    assert "a pod's environment takes 98304: make spec.config smaller" in fault


def test_the_hash_is_of_the_template_alone() -> None:
    same = template_hash(a_templated_spec(a_container(args=None)))
    assert same == template_hash(a_templated_spec())
    assert same != template_hash(a_templated_spec(a_container(args=["train.py"])))
    grown = a_spec(pods={"max": 9, "template": {"spec": {"containers": [a_container()]}}})
    assert same == template_hash(grown)


@pytest.mark.parametrize(
    ("names", "want"),
    [
        pytest.param(["main"], "main", id="the-only-one"),
        pytest.param(["proxy", "trainer"], "trainer", id="by-name"),
        pytest.param(["proxy", "main"], None, id="nobody-knows"),
        pytest.param([], None, id="none"),
    ],
)
def test_the_trainer_is_the_one_of_that_name_or_the_only_one(
    names: list[str], want: str | None
) -> None:
    assert trainer_container_name({"containers": [{"name": name} for name in names]}) == want
