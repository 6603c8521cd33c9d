"""A manifest of any shape is a job, or an InvalidJob that says why at a bearable length."""

from concertina_api.errors import InvalidJob
from concertina_api.manifest import job_document, parse_job
from tests.fuzzing import LENGTHS, anything, fuzz, refused, spoilt
from tests.shipped import shipped_jobs


@LENGTHS
def test_a_document_is_a_job_that_can_be_written_again_or_invalid(examples):
    def check(document):
        job, words = refused(lambda: parse_job(document), error=InvalidJob)
        assert len(words) < 20_000  # people read them
        if job is not None:
            written = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
            assert parse_job(written) == job

    fuzz(check, spoilt(shipped_jobs()) | anything, examples=examples)


@LENGTHS
def test_of_several_documents_one_is_the_job_or_none(examples):
    good = shipped_jobs()[0]

    def check(others):
        found, _ = refused(lambda: job_document([good, *others]), error=InvalidJob)
        assert found in (None, good)

    strategy = spoilt([shipped_jobs()[:2]]).filter(lambda one: isinstance(one, list))
    fuzz(check, strategy | anything.map(lambda one: [one]), examples=examples)
