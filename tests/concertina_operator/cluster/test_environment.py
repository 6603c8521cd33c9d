"""What the trainer container is told."""

import json

from concertina_api.v1alpha1 import AdaptiveTrainingJob
from concertina_operator.cluster.environment import environment, job_document
from tests.concertina_operator.cluster.templates import JOB, a_container, a_templated_spec
from tests.concertina_operator.factories import a_spec


def test_the_document_is_the_job_without_its_template() -> None:
    spec = a_templated_spec(a_container(image="a-secret-registry.example/trainer"))
    document = job_document(JOB, spec)
    assert "a-secret-registry" not in document
    job = AdaptiveTrainingJob.model_validate_json(document)
    assert (
        job.metadata.model_dump(include={"name", "namespace", "uid", "generation"})
        == (JOB["metadata"])
    )
    assert job.spec.pods.template == {}
    assert job.spec.model_copy(update={"pods": spec.pods}) == spec
    assert set(json.loads(document)) == {"apiVersion", "kind", "metadata", "spec"}


def test_the_kubelet_finds_nothing_to_replace_in_the_document() -> None:
    config = {"path": "$(CONCERTINA_POD)", "price": "$5 $$"}
    document = job_document(JOB, a_spec(config=config))
    assert "$" not in document
    assert AdaptiveTrainingJob.model_validate_json(document).spec.config == config


def test_facts_of_the_pod_come_by_downward_api_and_the_rest_as_values() -> None:
    variables = environment(JOB, a_spec(), grace_seconds=45, metrics_port=0, newest_round=7)
    fields = {
        variable["name"]: variable["valueFrom"]["fieldRef"]["fieldPath"]
        for variable in variables
        if "valueFrom" in variable
    }
    assert fields == {
        "CONCERTINA_POD": "metadata.name",
        "CONCERTINA_UID": "metadata.uid",
        "CONCERTINA_NAMESPACE": "metadata.namespace",
        "CONCERTINA_HOST": "status.podIP",
    }
    values = {entry["name"]: entry["value"] for entry in variables if "value" in entry}
    document = values.pop("CONCERTINA_SPEC")
    assert document == job_document(JOB, a_spec())
    assert values == {
        "CONCERTINA_TOKEN": "/var/run/secrets/concertina.dev",
        "CONCERTINA_RUN_DIR": "/run/concertina",
        "CONCERTINA_GRACE_SECONDS": "45",
        "CONCERTINA_METRICS_PORT": "0",
        "CONCERTINA_ROUND": "7",
        "CONCERTINA_STORAGE": "Shared",
    }
