import copy
import subprocess
import sys

import pytest

from concertina_api.errors import InvalidJob
from concertina_api.manifest import parse_job

JOB = {
    "apiVersion": "concertina.dev/v1alpha1",
    "kind": "AdaptiveTrainingJob",
    "metadata": {"name": "tiny-lm"},
    "spec": {
        "model": "package.module:Task",
        "samples": 1000,
        "batch": {"microBatchSize": 8, "initial": 16, "max": 64},
        "pods": {"min": 1, "max": 4, "allowed": [1, 2, 4]},
    },
}


def changed(path, value):
    document = copy.deepcopy(JOB)
    *parents, last = path.split(".")
    target = document
    for name in parents:
        target = target.setdefault(name, {})
    if value is None:
        del target[last]
    else:
        target[last] = value
    return document


def test_reads_the_fields_of_a_manifest():
    job = parse_job(JOB)

    assert job.spec.batch.micro_batch_size == 8
    assert job.spec.pods.allowed == (1, 2, 4)


@pytest.mark.parametrize(
    ("path", "value", "want_message"),
    [
        pytest.param(
            "spec.batch.microBatchsize", 4, r"unknown field \(did you mean microBatchSize\?\)",
            id="misspelt",
        ),
        pytest.param("spec.flavour", 4, r"spec.flavour: unknown field \(known: ", id="unknown"),
        pytest.param(
            "spec.batch.initial", 128, "initial 128 is above max 64", id="initial above max"
        ),
        pytest.param(
            "spec.batch.initial", 20, "initial 20 is not a multiple of microBatchSize 8",
            id="initial no multiple",
        ),
        pytest.param("spec.batch.microBatchSize", 0, "greater than or equal to 1, got 0", id="m 0"),
        pytest.param(
            "spec.pods.allowed", [8, 16], r"allowed \[8, 16\] has no size up to max 4",
            id="allowed above max",
        ),
        pytest.param(
            "spec.pods", {"min": 2, "max": 4, "allowed": [1, 2, 4]},
            r"allowed \[1\] lies below min 2", id="allowed below min",
        ),
        pytest.param("spec.pods.min", 5, "min 5 is above max 4", id="min above max"),
        pytest.param(
            "spec.training", {"rollBackAfter": 10},
            "rollBackAfter 10 is above maxSkippedSteps 5", id="rolls back too late",
        ),
        pytest.param("spec.batch.rule", {"name": "Magic"}, "'NormTest', 'NoiseScale'", id="rule"),
        pytest.param(
            "spec.batch.rule", {"name": "Fixed", "eta": 0.5},
            "eta belongs to rule NormTest, not to Fixed", id="foreign knob",
        ),
        pytest.param(
            "spec.batch.rule", {"name": "Ramp"}, "Ramp needs at least one stage", id="empty ramp"
        ),
        pytest.param(
            "spec.batch.rule", {"name": "Ramp", "stages": [{"samples": 1, "batch": 60}]},
            "stage batch 60 is not a multiple", id="stage no multiple",
        ),
        pytest.param("spec.samples", None, "exactly one of samples and epochs", id="no length"),
        pytest.param("spec.epochs", 2, "exactly one of samples and epochs", id="two lengths"),
        pytest.param("spec.model", "no colon", "String should match pattern", id="model"),
        pytest.param("metadata.name", "x" * 53, "at most 52 characters", id="long name"),
        pytest.param("spec.model", "mod\u00e8le:T", "String should match pattern", id="no ASCII"),
        pytest.param("spec.batch.micro_batch_size", 8, "did you mean microBatchSize", id="snake"),
        pytest.param("kind", "Job", "Input should be 'AdaptiveTrainingJob'", id="kind"),
    ],
)  # fmt: skip
def test_says_what_is_wrong_where(path, value, want_message):
    with pytest.raises(InvalidJob, match=want_message) as caught:
        parse_job(changed(path, value))

    assert caught.value.exit_code == 2


def test_a_lowered_max_leaves_larger_sizes_for_later():
    pods = parse_job(changed("spec.pods.max", 2)).spec.pods

    assert pods.allowed == (1, 2, 4)


def test_lists_every_mistake():
    document = changed("spec.pods.min", 0)
    document["spec"]["oops"] = 1
    with pytest.raises(InvalidJob) as caught:
        parse_job(document)

    assert "spec.pods.min" in str(caught.value)
    assert "spec.oops" in str(caught.value)


def test_refuses_what_is_no_mapping():
    with pytest.raises(InvalidJob, match="expected a mapping, got list"):
        parse_job([JOB])


def test_a_stored_object_may_have_fields_from_the_future():
    from concertina_api.v1alpha1 import AdaptiveTrainingJob

    document = changed("spec.futureField", {"x": 1})

    assert AdaptiveTrainingJob.model_validate(document).spec == parse_job(JOB).spec


def test_the_contract_imports_nothing_heavier_than_pydantic():
    code = (
        "import sys, concertina_api.manifest, concertina_api.batch;"
        "print([m for m in ('torch', 'numpy', 'yaml', 'click', 'kopf') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
