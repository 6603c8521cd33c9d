"""A manifest file with anything in it is a job, or an InvalidJob that says why."""

import pytest
import yaml
from hypothesis import strategies as st

from concertina_api.errors import InvalidJob
from concertina_operator.manifest_file import MAX_BYTES, dump_job, load_job
from tests.fuzzing import (
    LENGTHS,
    STRANGE_YAML,
    bounded,
    fuzz,
    json_bytes,
    refused,
    spoilt,
    spoilt_bytes,
)
from tests.shipped import FOLDER, shipped_jobs

FILES = [path.read_bytes() for path in sorted(FOLDER.glob("*.yaml"))]


@pytest.fixture
def check(tmp_path):
    file = tmp_path / "job.yaml"

    def check(content):
        file.write_bytes(content)
        job, _ = refused(lambda: load_job(file), error=InvalidJob)
        assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]
        if job is None:
            return
        file.write_text(dump_job(job))
        assert load_job(file) == job

    return check


@LENGTHS
def test_a_file_is_a_job_that_can_be_written_again_or_invalid(check, examples):
    contents = st.one_of(
        spoilt_bytes(FILES),
        spoilt_bytes([dump(job) for job in shipped_jobs()]),
        spoilt(shipped_jobs()).map(dump),
        json_bytes(shipped_jobs()),
    )
    fuzz(check, contents, examples=examples)


@pytest.mark.parametrize("content", STRANGE_YAML, ids=lambda content: repr(content[:20]))
def test_a_file_of_something_else_is_invalid(check, content):
    bounded(check, content)


def test_a_file_that_is_too_large_is_not_read(check, tmp_path):
    (tmp_path / "job.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InvalidJob, match="at most"):
        load_job(tmp_path / "job.yaml")


def dump(document):
    return yaml.safe_dump(document).encode()
