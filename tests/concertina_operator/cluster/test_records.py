import pytest

from concertina_api.v1alpha1 import JobStatus
from concertina_operator.cluster.records import Records, RefusedKind
from concertina_operator.cluster.store import Key
from tests.concertina_operator.factories import at

JOB = Key("ml", "tiny-lm")
STORED = JobStatus(round=3, gpus=1, gpu_seconds=10.0, gpu_counted_at=at(10))


def records(**clock):
    made = Records()
    made.planned(JOB, uid="u", spec=None, status=JobStatus(**clock))
    return made


LATER = {
    "gpus": 2,
    "gpu_seconds": 40.0,
    "training_gpu_seconds": 5.0,
    "idle_gpu_seconds": 25.0,
    "gpu_counted_at": at(30),
}


@pytest.mark.parametrize(
    ("made", "uid", "want"),
    [
        pytest.param(records(**LATER), "u", STORED.model_copy(update=LATER), id="counted later"),
        pytest.param(
            records(**LATER | {"gpu_counted_at": at(9)}), "u", STORED, id="another one counted"
        ),
        pytest.param(records(**LATER), "v", STORED, id="another job of that name"),
        pytest.param(records(), "u", STORED, id="nothing was counted"),
        pytest.param(Records(), "u", STORED, id="nothing is known"),
    ],
)
def test_gpu_seconds_are_counted_on_from_the_newest_plan(made, uid, want):
    assert made.counted(JOB, uid=uid, stored=STORED) == want


def test_a_status_that_was_never_stored_is_counted_on_as_well():
    got = records(**LATER).counted(JOB, uid="u", stored=JobStatus())
    assert (got.gpu_seconds, got.gpu_counted_at) == (40.0, at(30))


def test_what_was_of_an_earlier_job_of_that_name_is_forgotten():
    made = records(**LATER)
    made.refused(JOB, uid="u", what=RefusedKind.POD)
    made.refused(JOB, uid="v", what=RefusedKind.REPORT)
    assert made.of(JOB, uid="u") is None
    assert made.of(JOB, uid="v").refusals == {RefusedKind.REPORT: 1}
    assert len(made) == 1
    made.forget(JOB)
    assert len(made) == 0
