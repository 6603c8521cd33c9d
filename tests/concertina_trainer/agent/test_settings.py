import json
from pathlib import Path

import pytest

from concertina_api.errors import InvalidJob
from concertina_trainer.agent.settings import settings_from
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


def test_everything_can_be_said(environment):
    settings = settings_from(
        environment
        | {
            "CONCERTINA_HOST": "tiny-0.tiny",
            "CONCERTINA_METRICS_PORT": "9400",
            "CONCERTINA_GRACE_SECONDS": "0.5",
            "CONCERTINA_MAILBOX": "/mailbox",
        }
    )

    assert settings.host == "tiny-0.tiny"
    assert settings.metrics_port == 9400
    assert settings.grace_seconds == 0.5
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
