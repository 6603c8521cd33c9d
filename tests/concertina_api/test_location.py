"""Which addresses a manifest may give for checkpoints."""

import pytest
from pydantic import ValidationError

from concertina_api.location import scheme
from concertina_api.v1alpha1 import JobSpec
from tests.tasks import job_document


def spec(path: str) -> JobSpec:
    return JobSpec.model_validate(job_document(checkpoint={"path": path})["spec"])


@pytest.mark.parametrize(
    ("path", "want"),
    [
        pytest.param("checkpoints", None, id="relative"),
        pytest.param("/data/a@b:c", None, id="absolute"),
        pytest.param("s3://bucket", "s3", id="bucket"),
        pytest.param("S3://bucket/a/b", "s3", id="capitals"),
        pytest.param("gs://bucket/folder", "gs", id="another cloud"),
        pytest.param("abfs://container/folder", "abfs", id="a third"),
    ],
)
def test_a_path_or_a_url_is_taken(path: str, want: str | None) -> None:
    assert spec(path).checkpoint.path == path
    assert scheme(path) == want


@pytest.mark.parametrize(
    ("path", "want"),
    [
        pytest.param("s3://key:secret@bucket/x", "credentials", id="credentials"),
        pytest.param("s3://key@bucket/x", "credentials", id="half of them"),
        pytest.param("s3:///folder", "names no bucket", id="no bucket"),
        pytest.param("file:///data", "of one machine alone", id="a path in disguise"),
        pytest.param("memory://x", "of one machine alone", id="memory"),
        pytest.param("s3://a/b?versionId=1", "not of the form s3://", id="query"),
        pytest.param("s3://a/b c", "not of the form", id="blank"),
        pytest.param("zip://x::s3://a/b", "a chain of URLs", id="chain"),
    ],
)
def test_an_address_that_cannot_keep_checkpoints_is_refused(path: str, want: str) -> None:
    with pytest.raises(ValidationError, match=want):
        spec(path)
