"""An environment, or a manifest in it, with anything in it: settings, or an InvalidJob."""

import pytest
from hypothesis import strategies as st

from concertina_api.errors import InvalidJob
from concertina_trainer.agent.settings import channel_from, load_job, settings_from
from tests.fuzzing import (
    LENGTHS,
    NASTY_KEYS,
    STRANGE_YAML,
    bounded,
    fuzz,
    json_bytes,
    refused,
    spoilt_bytes,
)
from tests.shipped import FOLDER, shipped_jobs

FILES = [path.read_bytes() for path in sorted(FOLDER.glob("*.yaml"))]
VALUES = (
    *NASTY_KEYS, "1e400", "nan", "-inf", "-1", "0x10", "1_000", "9" * 5000, "65536", "::1", "127.0.0.1",
    "tiny-0", "A", "/", "/dev/null/x",
)  # fmt: skip


@pytest.fixture
def good(tmp_path):
    (tmp_path / "job.yaml").write_bytes(FILES[0])
    return {
        "CONCERTINA_JOB": str(tmp_path / "job.yaml"),
        "CONCERTINA_POD": "tiny-0",
        "CONCERTINA_UID": "u1",
        "CONCERTINA_MEMBERSHIP": str(tmp_path / "membership.json"),
        "CONCERTINA_REPORT": str(tmp_path / "report.json"),
        "CONCERTINA_RUN_DIR": str(tmp_path),
        "CONCERTINA_METRICS_PORT": "0",
        "CONCERTINA_GRACE_SECONDS": "30",
        "CONCERTINA_ROUND": "1",
        "CONCERTINA_HOST": "127.0.0.1",
        "CONCERTINA_MAILBOX": str(tmp_path / "mailbox"),
    }


@LENGTHS
def test_an_environment_is_understood_or_invalid(good, tmp_path, examples):
    wrong = st.dictionaries(
        st.sampled_from([*good, "CONCERTINA_NAMESPACE", "CONCERTINA_TOKEN"]),
        st.none() | st.sampled_from(VALUES) | st.text(max_size=20),
        min_size=1,
        max_size=3,
    )

    def check(changes):
        changed = {name: value for name, value in (good | changes).items() if value is not None}
        settings, _ = refused(lambda: settings_from(changed), error=InvalidJob)
        assert settings is None or 0 <= settings.metrics_port <= 65535
        refused(lambda: channel_from(changed), error=InvalidJob)
        assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]

    fuzz(check, wrong, examples=examples)


@LENGTHS
def test_a_job_in_the_environment_is_understood_or_invalid(tmp_path, examples):
    environment = {
        "CONCERTINA_POD": "tiny-0",
        "CONCERTINA_UID": "u1",
        "CONCERTINA_HOST": "10.0.0.1",
        "CONCERTINA_NAMESPACE": "lab",
        "CONCERTINA_TOKEN": "/var/run/secrets/concertina.dev",
        "CONCERTINA_RUN_DIR": str(tmp_path),
        "KUBERNETES_SERVICE_HOST": "10.0.0.2",
    }

    def check(content):
        document = content.decode("utf-8", "surrogateescape")
        changed = environment | {"CONCERTINA_SPEC": document}
        settings, _ = refused(lambda: settings_from(changed), error=InvalidJob)
        if settings is not None:
            assert load_job(settings.manifest) == settings.job

    fuzz(check, json_bytes(shipped_jobs()), examples=examples)


@LENGTHS
def test_a_manifest_is_a_job_or_invalid(tmp_path, examples):
    file = tmp_path / "job.yaml"

    def check(content):
        file.write_bytes(content)
        refused(lambda: load_job(file), error=InvalidJob)

    fuzz(check, spoilt_bytes(FILES) | json_bytes(shipped_jobs()), examples=examples)


@pytest.mark.parametrize("content", STRANGE_YAML, ids=lambda content: repr(content[:20]))
def test_a_manifest_of_something_else_is_invalid(tmp_path, content):
    file = tmp_path / "job.yaml"
    file.write_bytes(content)
    job, words = bounded(lambda path: refused(lambda: load_job(path), error=InvalidJob), file)
    assert job is None
    assert words
