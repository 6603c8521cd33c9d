import json
from pathlib import Path

import pytest
import yaml

from concertina_api.errors import InvalidJob
from concertina_operator.manifest_file import load_job as load_for_the_operator
from concertina_trainer.agent.api_server import Access
from concertina_trainer.agent.settings import Files, channel_from, load_job, settings_from
from tests.concertina_trainer.agent.pods import job_manifest


@pytest.fixture
def environment(tmp_path):
    manifest = tmp_path / "job.yaml"
    manifest.write_text(json.dumps(job_manifest(workers=2)))
    return {
        "CONCERTINA_JOB": str(manifest),
        "CONCERTINA_POD": "tiny-0",
        "CONCERTINA_UID": "u.1",
        "CONCERTINA_MEMBERSHIP": "/run/membership.json",
        "CONCERTINA_REPORT": "/run/reports/tiny-0.json",
        "CONCERTINA_RUN_DIR": "/run",
    }


def test_what_is_not_said_has_a_default(environment):
    settings = settings_from(environment)

    assert settings.job.spec.pods.workers_per_pod == 2
    assert settings.host == "127.0.0.1"
    assert settings.metrics_port == 0
    assert settings.grace_seconds == 120
    assert settings.mailbox == Path("/run/pods/tiny-0/mailbox")
    assert settings.worker_log("ab", 1, "stderr") == Path("/run/pods/tiny-0/logs/ab-1.stderr")
    assert settings.manifest == Path(environment["CONCERTINA_JOB"])
    assert settings.channel == Files(
        membership=Path("/run/membership.json"), report=Path("/run/reports/tiny-0.json")
    )


def test_a_manifest_says_the_same_to_the_trainer_as_to_the_operator(tmp_path):
    path = tmp_path / "job.yaml"
    text = yaml.safe_dump(job_manifest(workers=2))
    path.write_text(f"{text}  learningRate: {{peak: 3e-4}}\n  config: {{note: '3e-4'}}\n")
    job = load_job(path)

    assert job == load_for_the_operator(path)
    assert (job.spec.learning_rate.peak, job.spec.config["note"]) == (0.0003, "3e-4")


def test_workers_find_the_job_among_what_kubectl_applies_with_it(tmp_path):
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "tiny"}}
    path = tmp_path / "job.yaml"
    path.write_text(f"---\n{yaml.safe_dump_all([claim, job_manifest(workers=2)])}---\n")

    assert load_job(path) == load_for_the_operator(path)
    path.write_text(yaml.safe_dump_all([claim, claim]))
    with pytest.raises(InvalidJob, match="2 YAML documents"):
        load_job(path)


def test_a_small_number_is_a_number_in_a_manifest_of_json(tmp_path):
    manifest = job_manifest(workers=2)
    manifest["spec"] |= {"learningRate": {"peak": 1e-05}, "config": {"epsilon": 1e-08}}
    path = tmp_path / "job.json"
    path.write_text(json.dumps(manifest))
    spec = load_job(path).spec

    assert (spec.learning_rate.peak, spec.config["epsilon"]) == (1e-05, 1e-08)


def test_everything_can_be_said(environment):
    settings = settings_from(
        environment
        | {
            "CONCERTINA_HOST": "tiny-0.tiny",
            "CONCERTINA_METRICS_PORT": "9400",
            "CONCERTINA_GRACE_SECONDS": "0.5",
            "CONCERTINA_ROUND": "7",
            "CONCERTINA_MAILBOX": "/mailbox",
        }
    )

    assert settings.host == "tiny-0.tiny"
    assert settings.metrics_port == 9400
    assert settings.grace_seconds == 0.5
    assert settings.newest_round == 7
    assert settings.mailbox == Path("/mailbox")


@pytest.mark.parametrize(
    ("variable", "value", "want_message"),
    [
        pytest.param("CONCERTINA_POD", "", "CONCERTINA_POD is not set", id="missing name"),
        pytest.param("CONCERTINA_POD", "A_b", "CONCERTINA_POD='A_b': String should", id="name"),
        pytest.param("CONCERTINA_UID", "a b", "CONCERTINA_UID='a b'", id="uid"),
        pytest.param("CONCERTINA_HOST", "a/b", "CONCERTINA_HOST='a/b'", id="host"),
        pytest.param("CONCERTINA_REPORT", "", "CONCERTINA_REPORT is not set", id="path"),
        pytest.param(
            "CONCERTINA_METRICS_PORT",
            "65536",
            "CONCERTINA_METRICS_PORT='65536' is not a number from 0 to 65535",
            id="port",
        ),
        pytest.param(
            "CONCERTINA_GRACE_SECONDS", "nan", "CONCERTINA_GRACE_SECONDS='nan' is not", id="nan"
        ),
        pytest.param("CONCERTINA_JOB", "/none.yaml", "cannot read .* /none.yaml", id="no job"),
    ],
)
def test_a_mistake_is_named(environment, variable, value, want_message):
    with pytest.raises(InvalidJob, match=want_message):
        settings_from(environment | {variable: value})


def test_a_job_that_is_not_yaml_is_a_mistake(environment):
    Path(environment["CONCERTINA_JOB"]).write_text("{")

    with pytest.raises(InvalidJob, match="cannot read the job's manifest"):
        settings_from(environment)


@pytest.fixture
def in_cluster(tmp_path):
    """What the kubelet and the operator tell an agent."""
    document = job_manifest()
    document["metadata"] |= {"uid": "j", "generation": 3}
    document["spec"]["fieldOfANewerOperator"] = {"a": "$(B)"}
    return {
        "CONCERTINA_SPEC": json.dumps(document),
        "CONCERTINA_POD": "tiny-0",
        "CONCERTINA_UID": "0d6d0c34-97f0-4c4d-8d5b-b1b6d6e2b6f5",
        "CONCERTINA_NAMESPACE": "lab",
        "CONCERTINA_HOST": "10.245.0.7",
        "CONCERTINA_TOKEN": "/var/run/secrets/concertina.dev",
        "CONCERTINA_RUN_DIR": str(tmp_path / "run"),
        "KUBERNETES_SERVICE_HOST": "10.97.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
    }


def test_an_agent_on_kubernetes_has_its_job_in_the_environment(in_cluster, tmp_path):
    settings = settings_from(in_cluster)

    assert settings.channel == Access(
        host="10.97.0.1",
        port=443,
        namespace="lab",
        credentials=Path("/var/run/secrets/concertina.dev"),
    )
    assert settings.host == "10.245.0.7"
    assert settings.manifest == tmp_path / "run" / "pods" / "tiny-0" / "job.json"
    assert load_job(settings.manifest) == settings.job  # which is what workers do
    assert settings.job.metadata.name == "tiny"
    assert channel_from(in_cluster) == settings.channel


@pytest.mark.parametrize(
    ("variable", "value", "want_message"),
    [
        pytest.param("CONCERTINA_SPEC", "{}", "CONCERTINA_SPEC is not an Adaptive", id="empty"),
        pytest.param("CONCERTINA_SPEC", "{", "CONCERTINA_SPEC is not an Adaptive", id="cut"),
        pytest.param("CONCERTINA_NAMESPACE", "", "CONCERTINA_NAMESPACE is not set", id="namespace"),
        pytest.param("CONCERTINA_HOST", "", "CONCERTINA_HOST is not set", id="address"),
        pytest.param("CONCERTINA_TOKEN", "", "CONCERTINA_TOKEN is not set", id="token"),
        pytest.param(
            "KUBERNETES_SERVICE_HOST", "", "KUBERNETES_SERVICE_HOST is not set", id="server"
        ),
        pytest.param(
            "KUBERNETES_SERVICE_PORT", "tcp://10", "KUBERNETES_SERVICE_PORT='tcp", id="port"
        ),
        pytest.param(
            "CONCERTINA_RUN_DIR", "/proc/none", "CONCERTINA_RUN_DIR: cannot write", id="folder"
        ),
    ],
)
def test_a_mistake_on_kubernetes_is_named(in_cluster, variable, value, want_message):
    with pytest.raises(InvalidJob, match=want_message):
        settings_from(in_cluster | {variable: value})
