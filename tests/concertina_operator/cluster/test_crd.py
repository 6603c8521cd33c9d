"""The resource definitions: as files, and as an API server takes them."""

from pathlib import Path

import pytest
import yaml

from concertina_api.manifest import job_document, parse_job
from concertina_api.v1alpha1 import AdaptiveTrainingJob, JobStatus, Membership, Report
from concertina_operator.cluster.crd import custom_resource_definitions
from tests.cluster.api import ApiFailure, wait_for
from tests.concertina_operator.cluster.installed import GROUP
from tests.concertina_operator.cluster.jobs import a_job

ROOT = Path(__file__).parents[3]
COMMITTED = ROOT / "charts/concertina/files/crd.yaml"
MANIFESTS = sorted((ROOT / "manifests").glob("*.yaml"))


def as_yaml():
    return yaml.safe_dump_all(custom_resource_definitions(), sort_keys=False, width=100)


def keywords(schema):
    yield from schema
    for inner in schema.get("properties", {}).values():
        yield from keywords(inner)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from keywords(schema[key])


def schema_of(definition):
    (version,) = definition["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def test_the_committed_file_is_what_the_models_say():
    """Made anew by `python -m tests.concertina_operator.cluster.test_crd`."""
    assert COMMITTED.read_text() == as_yaml()


@pytest.mark.parametrize(
    "definition",
    [pytest.param(each, id=each["metadata"]["name"]) for each in custom_resource_definitions()],
)
def test_everything_is_inline_and_of_one_type(definition):
    found = set(keywords(schema_of(definition)))

    assert not found & {"$ref", "$defs", "anyOf", "const", "title", "propertyNames"}


def test_no_two_definitions_share_a_part():
    first, second = custom_resource_definitions(), custom_resource_definitions()
    first[0]["spec"]["versions"][0]["schema"].clear()

    assert second == custom_resource_definitions()


def test_every_list_and_text_of_messages_is_bounded():
    def unbounded(schema, place):
        kind = schema["type"]
        if kind == "string" and not schema.keys() & {"maxLength", "enum", "format", "pattern"}:
            yield place
        if kind == "array" and "maxItems" not in schema:
            yield place
        if "additionalProperties" in schema and "maxProperties" not in schema:
            yield place
        for name, inner in schema.get("properties", {}).items():
            yield from unbounded(inner, f"{place}.{name}")
        if "items" in schema:
            yield from unbounded(schema["items"], f"{place}[]")

    found = []
    for definition in custom_resource_definitions():
        for part in ("spec", "status"):
            if part in schema_of(definition)["properties"]:
                schema = schema_of(definition)["properties"][part]
                found += unbounded(schema, f"{definition['spec']['names']['kind']}.{part}")

    assert found == []


def test_the_names_are_short_and_in_the_category_all(resources, api, namespace):
    api.create(f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs", a_job())

    assert "tiny-lm" in resources.run_kubectl("get", "atj", "-n", namespace).stdout
    assert "/tiny-lm" in resources.run_kubectl("get", "all", "-n", namespace).stdout


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_is_accepted_and_means_the_same(api, namespace, path):
    manifest = job_document(list(yaml.safe_load_all(path.read_text())))
    stored = api.create(
        f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs", manifest, fieldValidation="Strict"
    )

    assert AdaptiveTrainingJob.model_validate(stored).spec == parse_job(manifest).spec


def test_a_job_that_says_little_gets_the_defaults_of_the_models(api, namespace):
    job = a_job()
    stored = api.create(f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs", job)

    assert AdaptiveTrainingJob.model_validate(stored).spec == parse_job(job).spec
    assert stored["spec"]["pods"]["max"] == 1
    assert stored["spec"]["checkpoint"]["everySeconds"] == 600


def test_null_seconds_between_checkpoints_are_kept(api, namespace):
    stored = api.create(
        f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs",
        a_job(checkpoint={"everySeconds": None}),
    )

    assert stored["spec"]["checkpoint"]["everySeconds"] is None
    assert AdaptiveTrainingJob.model_validate(stored).spec.checkpoint.every_seconds is None


def test_the_template_may_hold_what_only_a_newer_kubernetes_knows(api, namespace):
    template = {
        "metadata": {"labels": {"team": "a"}, "future": 1},
        "spec": {
            "containers": [{"name": "trainer", "image": "i", "future": {"x": 1}}],
            "future": [],
        },
    }
    stored = api.create(
        f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs",
        a_job(pods={"template": template}),
        fieldValidation="Strict",
    )

    assert stored["spec"]["pods"]["template"] == template


def test_a_template_whose_containers_are_no_list_is_refused(api, namespace):
    job = a_job(pods={"template": {"spec": {"containers": {"name": "trainer"}}}})
    with pytest.raises(ApiFailure, match="containers") as caught:
        api.create(f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs", job)

    assert caught.value.status == 422


def test_a_full_status_is_stored_as_it_was_written(api, namespace):
    path = f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs"
    api.create(path, a_job())
    status = {
        "observedGeneration": 1,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Training", "message": "m",
                        "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "state": "Training",
        "pods": {"wanted": 2, "ready": 1, "running": 2},
        "worldSize": 2,
        "round": 3,
        "batch": {"requested": 70, "effective": 64, "accumulation": 4, "sequence": 5, "reason": "r"},
        "progress": {"step": 12, "samples": 768, "loss": 2.5, "noiseScale": 113.5},
        "lastResize": {"fromWorldSize": 1, "toWorldSize": 2, "phases": {"open": 0.1}},
        "failures": {"count": 1, "rounds": [2], "uids": ["u.i"]},
        "selector": "concertina.dev/job=tiny-lm",
    }  # fmt: skip
    stored = api.patch(f"{path}/tiny-lm/status", {"status": status}, fieldValidation="Strict")

    assert stored["status"] == status
    JobStatus.model_validate(stored["status"])


def test_a_condition_that_only_a_newer_operator_knows_is_stored(api, namespace):
    path = f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs"
    api.create(path, a_job())
    condition = {"type": "Brilliant", "status": "True", "reason": "New"}
    stored = api.patch(f"{path}/tiny-lm/status", {"status": {"conditions": [condition]}})

    assert stored["status"]["conditions"] == [condition]


def test_kubectl_prints_how_the_job_is_doing(resources, api, namespace):
    path = f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs"
    api.create(path, a_job(pods={"max": 4}))
    status = {
        "state": "Training", "round": 3, "worldSize": 2,
        "pods": {"ready": 1, "wanted": 2},
        "batch": {"effective": 64},
        "progress": {"step": 12, "samples": 768, "noiseScale": 113.5},
    }  # fmt: skip
    api.patch(f"{path}/tiny-lm/status", {"status": status})

    header, row = resources.run_kubectl("get", "atj", "-n", namespace).stdout.splitlines()
    assert header.split() == ["NAME", "STATE", "READY", "WANTED", "BATCH", "STEP", "NOISE", "AGE"]
    assert row.split()[:-1] == ["tiny-lm", "Training", "1", "2", "64", "12", "113.5"]
    wide = resources.run_kubectl("get", "atj", "-n", namespace, "-o", "wide").stdout.splitlines()
    assert wide[0].split()[-3:] == ["WORKERS", "ROUND", "MAX"]
    assert wide[1].split()[-3:] == ["2", "3", "4"]


def test_kubectl_explains_a_field_in_the_words_of_the_model(resources):
    # What kubectl reads is made some time after a definition is established.
    def told():
        done = resources.run_kubectl("explain", "atj.spec.batch.maxAccumulation", check=False)
        return "before more workers are asked for" in done.stdout

    assert wait_for(told, lambda: "kubectl explains nothing")


class TestScale:
    def test_of_a_job_that_names_no_number_of_pods(self, api, namespace):
        path = f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs"
        api.create(path, a_job())
        selector = {"status": {"selector": "concertina.dev/job=tiny-lm", "pods": {"running": 1}}}
        api.patch(f"{path}/tiny-lm/status", selector)
        scale = api.get(f"{path}/tiny-lm/scale")

        assert scale["spec"] == {"replicas": 1}
        assert scale["status"] == {"replicas": 1, "selector": "concertina.dev/job=tiny-lm"}

    def test_moves_the_ceiling_and_leaves_the_sizes(self, resources, api, namespace):
        path = f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs"
        api.create(path, a_job(pods={"min": 1, "max": 4, "allowed": [1, 2, 4]}))
        resources.run_kubectl("scale", "atj/tiny-lm", "--replicas=3", "-n", namespace)
        pods = api.get(f"{path}/tiny-lm")["spec"]["pods"]

        assert (pods["max"], pods["allowed"]) == (3, [1, 2, 4])

    def test_an_autoscaler_moves_it(self, api, namespace):
        path = f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs"
        api.create(path, a_job(pods={"min": 1, "max": 4}))
        status = {"selector": "concertina.dev/job=tiny-lm", "pods": {"running": 4}}
        api.patch(f"{path}/tiny-lm/status", {"status": status})
        target = {"apiVersion": "concertina.dev/v1alpha1", "kind": "AdaptiveTrainingJob"}
        bounds = {"minReplicas": 1, "maxReplicas": 2}  # obeyed whatever a metric says
        api.create(
            f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers",
            {
                "metadata": {"name": "ceiling"},
                "spec": {"scaleTargetRef": {**target, "name": "tiny-lm"}, **bounds},
            },
        )

        api.wait(f"{path}/tiny-lm", lambda job: job["spec"]["pods"]["max"] == 2, "not moved")

    @pytest.mark.parametrize(
        ("replicas", "want_message"),
        [
            pytest.param(1, "min 2 is above max 1", id="below min"),
            pytest.param(0, "should be greater than or equal to 1", id="to nothing"),
            pytest.param(70000, "should be less than or equal to 65536", id="beyond reason"),
        ],
    )
    def test_is_refused_outside_the_bounds(self, api, namespace, replicas, want_message):
        path = f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs"
        api.create(path, a_job(pods={"min": 2, "max": 4}))
        with pytest.raises(ApiFailure, match=want_message) as caught:
            api.patch(f"{path}/tiny-lm/scale", {"spec": {"replicas": replicas}})

        assert caught.value.status == 422


@pytest.mark.parametrize(
    ("kind", "model", "spec"),
    [
        pytest.param(
            "TrainingMembership", Membership,
            {"protocol": 1, "round": 2, "intent": "Run",
             "members": [{"pod": "a-0", "uid": "u", "incarnation": "i", "host": "10.0.0.1",
                          "port": 4000, "workers": 2}],
             "leaving": [], "lost": [], "probe": 0, "requestSequence": 7},
            id="membership",
        ),
        pytest.param(
            "TrainingReport", Report,
            {"protocols": {"oldest": 1, "newest": 1}, "pod": "a-0", "uid": "u", "incarnation": "i",
             "phase": "Training", "host": "10.0.0.1", "port": 4000, "workers": 1, "round": 2,
             "leaving": False, "suspects": ["a-1"], "probe": 1,
             "failure": {"round": 1, "incarnation": "i", "rank": -1, "cause": "Signal",
                         "message": "killed", "permanent": False},
             "request": {"sequence": 1, "requested": 70, "effective": 64, "reason": "r"},
             "progress": {"step": 1, "samples": 8, "loss": 2.5},
             "acknowledged": {"round": 2, "worldSizeBefore": 1, "worldSize": 2, "step": 1,
                              "pauseSeconds": 0.3, "phases": {"open": 0.1}, "source": "memory"},
             "checkpoint": {"step": 1, "samples": 8, "path": "/c/1"},
             "finished": False, "stateBytes": 1, "peakBytes": 2, "time": "2026-01-01T00:00:00Z"},
            id="report",
        ),
    ],
)  # fmt: skip
def test_a_message_is_stored_as_it_was_written(api, namespace, kind, model, spec):
    stored = api.create(
        f"{GROUP}/namespaces/{namespace}/{kind.lower()}s",
        {"apiVersion": "concertina.dev/v1alpha1", "kind": kind, "metadata": {"name": "a-0"},
         "spec": spec},
        fieldValidation="Strict",
    )  # fmt: skip

    assert stored["spec"] == spec
    model.model_validate(stored["spec"])


if __name__ == "__main__":
    COMMITTED.parent.mkdir(parents=True, exist_ok=True)
    COMMITTED.write_text(as_yaml())
