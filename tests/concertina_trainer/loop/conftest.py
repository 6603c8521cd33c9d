import pytest

from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.loop.saving import Saver
from tests.concertina_trainer.loop.savers import membership
from tests.tasks import job_document


@pytest.fixture
def saver_of(tmp_path):
    """Makes the savers of workers that share a folder, each in its round."""
    savers = []

    def make(*, pods=1, shares_storage=True, rank=0, grace=None, **checkpoint):
        settings = {"everySeconds": 1, "path": "checkpoints"} | checkpoint
        spec = JobSpec.model_validate(job_document(checkpoint=settings)["spec"])
        saver = Saver(
            spec,
            job="tiny-lm",
            run_dir=tmp_path,
            may_publish=lambda: True,
            shares_storage=shares_storage,
            grace_left=lambda: grace,
        )
        savers.append(saver)
        saver.enter(membership(pods=pods), rank=rank)
        return saver

    yield make
    for saver in savers:
        saver.close()
