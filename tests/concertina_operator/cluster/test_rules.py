"""Each rule, as the API server enforces it, and that the models say the same."""

import copy

import pytest
import yaml

from concertina_api.errors import InvalidJob
from concertina_api.manifest import parse_job
from concertina_operator.manifest_file import load_job
from tests.cluster.api import ApiFailure
from tests.concertina_operator.cluster.installed import GROUP, a_report
from tests.concertina_operator.cluster.jobs import a_job

MEMBER = {"pod": "a-0", "uid": "u", "incarnation": "i", "host": "10.0.0.1", "port": 4000}


def changed(document, path, value):
    """A copy with another value at the path; None takes the field away."""
    result = copy.deepcopy(document)
    *parents, last = path.split(".")
    target = result
    for name in parents:
        target = target.setdefault(name, {})
    if value is None:
        target.pop(last, None)
    else:
        target[last] = value
    return result


def jobs(namespace):
    return f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs"


@pytest.mark.parametrize(
    ("path", "value", "want_field", "want_message"),
    [
        pytest.param("metadata.name", "x" * 53, None, "at most 52 characters", id="long name"),
        pytest.param(
            "spec.batch.initial", 20, "spec.batch.initial",
            "initial 20 is not a multiple of microBatchSize 8", id="initial no multiple",
        ),
        pytest.param(
            "spec.batch.max", 60, "spec.batch.max", "max 60 is not a multiple of microBatchSize 8",
            id="max no multiple",
        ),
        pytest.param(
            "spec.batch.initial", 128, "spec.batch.initial", "initial 128 is above max 64",
            id="initial above max",
        ),
        pytest.param(
            "spec.batch.rule", {"name": "Fixed", "eta": 0.5}, "spec.batch.rule.eta",
            "eta belongs to rule NormTest, not to Fixed", id="foreign eta",
        ),
        pytest.param(
            "spec.batch.rule", {"fraction": 0.5}, "spec.batch.rule.fraction",
            "fraction belongs to rule NoiseScale, not to NormTest", id="foreign fraction",
        ),
        pytest.param(
            "spec.batch.rule", {"name": "NoiseScale", "stages": [{"samples": 1, "batch": 8}]},
            "spec.batch.rule.stages", "stages belongs to rule Ramp, not to NoiseScale",
            id="foreign stages",
        ),
        pytest.param(
            "spec.batch.rule", {"name": "Ramp"}, "spec.batch.rule",
            "rule Ramp needs at least one stage", id="empty ramp",
        ),
        pytest.param(
            "spec.batch.rule",
            {"name": "Ramp",
             "stages": [{"samples": 5, "batch": 16}, {"samples": 2, "batch": 32}]},
            "spec.batch.rule.stages", "stages must have rising samples, got [5, 2]",
            id="falling stages",
        ),
        pytest.param(
            "spec.batch.rule",
            {"name": "Ramp",
             "stages": [{"samples": 2, "batch": 16}, {"samples": 2, "batch": 32}]},
            "spec.batch.rule.stages", "stages must have rising samples, got [2, 2]",
            id="stages at once",
        ),
        pytest.param(
            "spec.batch.rule", {"name": "Ramp", "stages": [{"samples": 1, "batch": 60}]},
            "spec.batch.rule", "stage batch 60 is not a multiple of microBatchSize 8 up to max 64",
            id="stage no multiple",
        ),
        pytest.param(
            "spec.batch.rule", {"name": "Ramp", "stages": [{"samples": 1, "batch": 128}]},
            "spec.batch.rule", "stage batch 128 is not a multiple of microBatchSize 8 up to max 64",
            id="stage above max",
        ),
        pytest.param(
            "spec.batch.shadowRules",
            [{"name": "Ramp", "stages": [{"samples": 1, "batch": 60}]}],
            "spec.batch.shadowRules", "is not a multiple of microBatchSize 8 up to max 64",
            id="stage of a shadow rule",
        ),
        pytest.param(
            "spec.batch.shadowRules", [{"name": "NoiseScale"}, {"name": "Fixed", "eta": 0.5}],
            "spec.batch.shadowRules[1].eta", "eta belongs to rule NormTest, not to Fixed",
            id="knob of a shadow rule",
        ),
        pytest.param(
            "spec.pods", {"min": 5, "max": 4}, "spec.pods.min", "min 5 is above max 4",
            id="min above max",
        ),
        pytest.param(
            "spec.pods", {"min": 2, "max": 4, "allowed": [1, 2, 4]}, "spec.pods.allowed",
            "allowed [1] lies below min 2", id="allowed below min",
        ),
        pytest.param(
            "spec.pods", {"min": 1, "max": 4, "allowed": [8, 16]}, "spec.pods.allowed",
            "allowed [8, 16] has no size up to max 4", id="allowed above max",
        ),
        pytest.param(
            "spec.training.rollBackAfter", 6, "spec.training.rollBackAfter",
            "rollBackAfter 6 is above maxSkippedSteps 5", id="rolls back too late",
        ),
        pytest.param(
            "spec", a_job()["spec"]
            | {"snapshots": {"mode": "Off"}, "training": {"rollBackAfter": 2}},
            "spec.training.rollBackAfter", "needs snapshots, and snapshots.mode is Off",
            id="nothing to roll back to",
        ),
        pytest.param(
            "spec.samples", None, "spec", "give exactly one of samples and epochs", id="no length"
        ),
        pytest.param(
            "spec.epochs", 2, "spec", "give exactly one of samples and epochs", id="two lengths"
        ),
    ],
)  # fmt: skip
def test_server_and_models_refuse_in_the_same_words(
    api, namespace, path, value, want_field, want_message
):
    document = changed(a_job(), path, value)
    with pytest.raises(ApiFailure) as caught:
        api.create(jobs(namespace), document, dryRun="All")
    with pytest.raises(InvalidJob) as local:
        parse_job(document)

    assert caught.value.status == 422
    assert want_message in caught.value.message
    if want_field is not None:
        assert f"{want_field}: " in caught.value.message
    assert want_message in str(local.value)


@pytest.mark.parametrize(
    ("path", "value", "want_message"),
    [
        pytest.param("spec.samples", "4000", "spec.samples: write 4000, not '4000'", id="text"),
        pytest.param("spec.samples", 4000.5, "spec.samples: .*fractional part", id="fraction"),
        pytest.param("spec.samples", True, "spec.samples: write 1, not True", id="truth"),
        pytest.param("spec.seed", False, "spec.seed: write 0, not False", id="untruth"),
        pytest.param("spec.suspend", "no", "spec.suspend: write false, not 'no'", id="word"),
        pytest.param("spec.suspend", 1, "spec.suspend: write true, not 1", id="number"),
        pytest.param(
            "spec.learningRate.peak", "3e-4", "peak: write 0.0003, not '3e-4'", id="number in text"
        ),
        pytest.param("spec.learningRate.maxFactor", True, "write 1.0, not True", id="factor"),
        pytest.param("spec.pods.allowed", [1, "1"], "allowed.1: write 1, not '1'", id="list"),
        pytest.param(
            "spec.batch.rule",
            {"name": "Ramp", "stages": [{"samples": 1, "batch": "16"}]},
            "spec.batch.rule.stages.0.batch: write 16, not '16'", id="inside a list",
        ),
        pytest.param("spec.model", 7, "spec.model: .*valid string", id="no text"),
        pytest.param("spec.model", "mod\u00e8le:T", "spec.model: .*match pattern", id="no ASCII"),
    ],
)  # fmt: skip
def test_neither_converts_a_value_of_the_wrong_type(api, namespace, path, value, want_message):
    document = changed(a_job(), path, value)
    with pytest.raises(ApiFailure) as caught:
        api.create(jobs(namespace), document, dryRun="All")
    with pytest.raises(InvalidJob, match=want_message):
        parse_job(document)

    assert caught.value.status == 422
    assert path in caught.value.message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param("spec.batch.rule", {"name": "Fixed", "stages": []}, id="no stages"),
        pytest.param("spec.batch.shadowRules", [{"name": "NoiseScale", "stages": []}], id="shadow"),
        pytest.param("spec.batch.rule", {"name": "NormTest", "maxGrowth": 2}, id="a whole number"),
        pytest.param("spec.config", {"a": "1", "b": [True, 1.0, None]}, id="free-form"),
        pytest.param("spec.checkpoint", {"everySeconds": None}, id="null"),
    ],
)
def test_what_the_models_take_the_server_takes(api, namespace, path, value):
    document = changed(a_job(), path, value)
    parse_job(document)
    api.create(jobs(namespace), document, dryRun="All")


def test_numbers_of_a_file_are_the_same_to_kubectl(resources, api, namespace, tmp_path):
    path = tmp_path / "job.yaml"
    text = yaml.safe_dump(changed(a_job(), "spec.learningRate", {"peak": "PEAK"}))
    # The client, not the server, takes 4000.0 for an integer.
    path.write_text(text.replace("samples: 1000", "samples: 4000.0").replace("PEAK", "3e-4"))
    resources.run_kubectl("create", "-f", str(path), "-n", namespace)
    stored = api.get(f"{jobs(namespace)}/tiny-lm")["spec"]
    local = load_job(path).spec

    assert (stored["samples"], stored["learningRate"]["peak"]) == (4000, 0.0003)
    assert (local.samples, local.learning_rate.peak) == (4000, 0.0003)


def test_a_name_must_do_for_pods(api, namespace):
    api.create(jobs(namespace), a_job("7"), dryRun="All")
    with pytest.raises(ApiFailure, match=r"this one has 3: a\.b"):
        api.create(jobs(namespace), a_job("a.b"), dryRun="All")


CONFIG = {"width": 32, "data": {"path": "/a"}}
CHANGES = [
    pytest.param("model", "package.module:Other", id="model"),
    pytest.param("config", {"width": 64}, id="config"),
    pytest.param("config", CONFIG | {"depth": 2}, id="config grown"),
    pytest.param("config", None, id="config removed"),
    pytest.param("config", {}, id="config emptied"),
    pytest.param("config", {"breadth": 32}, id="config with a renamed key"),
    pytest.param("config", {"width": 32.5}, id="config with another number"),
    pytest.param(
        "config", {"width": 32, "data": {"path": "/b"}}, id="config with another inner value"
    ),
    pytest.param(
        "config", {"width": 32, "data": {"source": "/a"}}, id="config with a renamed inner key"
    ),
    pytest.param("samples", 2000, id="samples"),
    pytest.param("seed", 1, id="seed"),
    pytest.param("batch.microBatchSize", 16, id="microBatchSize"),
    pytest.param("batch.initial", 32, id="initial"),
    pytest.param("batch.max", 128, id="max"),
    pytest.param("batch.rule", {"name": "Fixed"}, id="rule"),
    pytest.param("batch.shadowRules", [{"name": "NoiseScale"}], id="shadowRules added"),
    pytest.param("learningRate.peak", 0.1, id="learningRate"),
    pytest.param("training.gradientClip", 1.0, id="training"),
    pytest.param("checkpoint.path", "/elsewhere", id="checkpoint path"),
    pytest.param("pods.workersPerPod", 2, id="workersPerPod"),
]
FREE = [
    pytest.param("config", {"data": {"path": "/a"}, "width": 32}, id="config in another order"),
    pytest.param("batch.maxAccumulation", 8, id="maxAccumulation"),
    pytest.param("pods.max", 8, id="max"),
    pytest.param("pods.allowed", [1, 2], id="allowed"),
    pytest.param("pods.template", {"spec": {"containers": [{"name": "t"}]}}, id="template"),
    pytest.param("scaling.mode", "Recommend", id="mode"),
    pytest.param("checkpoint.keep", 7, id="keep"),
    pytest.param("suspend", True, id="suspend"),
    pytest.param("cleanupPolicy", "All", id="cleanupPolicy"),
    pytest.param("failurePolicy.backoffLimit", 0, id="backoffLimit"),
]


def a_stored_job(api, namespace, status):
    stored = api.create(jobs(namespace), a_job(config=CONFIG))
    if status:
        stored = api.patch(f"{jobs(namespace)}/tiny-lm/status", {"status": status})
    return stored


def put(api, document):
    metadata = document["metadata"]
    path = f"{jobs(metadata['namespace'])}/{metadata['name']}"
    return api.call("PUT", path, document, dryRun="All")


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"round": 1, "pods": {"wanted": 0}}, id="with a round"),
        pytest.param({"round": 0, "pods": {"wanted": 1}}, id="with pods"),
    ],
)
@pytest.mark.parametrize(("field", "value"), CHANGES)
def test_what_is_computed_is_fixed_once_the_job_has_started(api, namespace, status, field, value):
    stored = a_stored_job(api, namespace, status)
    with pytest.raises(ApiFailure) as caught:
        put(api, changed(stored, f"spec.{field}", value))

    assert caught.value.status == 422
    assert "is fixed once the job has started" in caught.value.message
    assert f"spec.{field.split('.')[0]}" in caught.value.message


@pytest.mark.parametrize(("field", "value"), [*CHANGES, *FREE])
def test_before_the_start_all_may_change(api, namespace, field, value):
    stored = a_stored_job(api, namespace, {"round": 0, "pods": {"wanted": 0}, "state": "Suspended"})

    assert put(api, changed(stored, f"spec.{field}", value))["kind"] == "AdaptiveTrainingJob"


@pytest.mark.parametrize(("field", "value"), FREE)
def test_what_the_operator_alone_uses_may_change_at_any_time(api, namespace, field, value):
    stored = a_stored_job(api, namespace, {"round": 3, "pods": {"wanted": 2}})
    found = put(api, changed(stored, f"spec.{field}", value))["spec"]
    for name in field.split("."):
        found = found[name]

    assert found == value


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("a/b", "c/d", id="changed"),
        pytest.param("a/b", None, id="removed"),
        pytest.param(None, "a/b", id="added"),
    ],
)
def test_who_manages_a_job_never_changes(api, namespace, before, after):
    stored = api.create(jobs(namespace), changed(a_job(), "spec.managedBy", before))
    with pytest.raises(ApiFailure, match="managedBy never changes"):
        put(api, changed(stored, "spec.managedBy", after))


class TestMembership:
    @pytest.fixture
    def stored(self, api, namespace):
        return api.create(
            f"{GROUP}/namespaces/{namespace}/trainingmemberships",
            {
                "apiVersion": "concertina.dev/v1alpha1",
                "kind": "TrainingMembership",
                "metadata": {"name": "tiny-lm"},
                "spec": {"round": 4, "members": [MEMBER]},
            },
        )

    def put(self, api, document):
        metadata = document["metadata"]
        path = f"{GROUP}/namespaces/{metadata['namespace']}/trainingmemberships/tiny-lm"
        return api.call("PUT", path, document, dryRun="All")

    @pytest.mark.parametrize("number", [4, 5])
    def test_a_round_may_stay_and_rise(self, api, stored, number):
        assert self.put(api, changed(stored, "spec.round", number))["spec"]["round"] == number

    def test_a_round_never_falls(self, api, stored):
        with pytest.raises(ApiFailure, match="round 3 is below 4: a round never falls"):
            self.put(api, changed(stored, "spec.round", 3))

    def test_a_pod_is_listed_once_but_may_come_back(self, api, stored):
        again = {**MEMBER, "incarnation": "j"}
        self.put(api, changed(stored, "spec.members", [MEMBER, again]))
        with pytest.raises(ApiFailure, match="Duplicate value"):
            self.put(api, changed(stored, "spec.members", [MEMBER, MEMBER]))

    def test_the_order_of_ranks_is_kept(self, api, stored):
        members = [{**MEMBER, "uid": uid} for uid in ("z", "a", "m")]

        assert self.put(api, changed(stored, "spec.members", members))["spec"]["members"] == members


@pytest.mark.parametrize(
    ("path", "value", "want_message"),
    [
        pytest.param(
            "spec.pod", "b-0", "a report is named like its pod: a-0 is not b-0", id="other name"
        ),
        pytest.param(
            "spec.request",
            {"sequence": 1, "requested": 2**24 + 1, "effective": 8, "reason": ""},
            "less than or equal to 16777216", id="absurd batch",
        ),
        pytest.param(
            "spec.request",
            {"sequence": 1, "requested": 8, "effective": 8, "reason": "x" * 513},
            "may not be more than 512", id="long reason",
        ),
        pytest.param("spec.suspects", ["a"] * 65, "must have at most 64 items", id="many suspects"),
        pytest.param(
            "spec.acknowledged",
            {"round": 1, "worldSizeBefore": 1, "worldSize": 1, "step": 1, "pauseSeconds": 0.1,
             "phases": {"x" * 33: 0.1}},
            "a key has at most 32 characters", id="long name of a phase",
        ),
        pytest.param("spec.phase", "Dreaming", "supported values", id="phase"),
    ],
)  # fmt: skip
def test_a_report_is_bounded(api, namespace, path, value, want_message):
    document = changed(a_report("a-0"), path, value)
    with pytest.raises(ApiFailure) as caught:
        api.create(f"{GROUP}/namespaces/{namespace}/trainingreports", document)

    assert caught.value.status == 422
    assert want_message in caught.value.message
