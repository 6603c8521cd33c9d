import pytest

from concertina_api.v1alpha1 import Failure, SuspectSamples
from concertina_operator.suspects import REMEMBERED, named, poison, suspected


def at(first, num_samples=8, cause="Exception", number=1):
    return Failure(
        round=number, incarnation="a", cause=cause, first_sample=first, num_samples=num_samples
    )


def after(*failures, step=1):
    suspects = ()
    for failure in failures:
        suspects = suspected(suspects, failure, step=step)
    return [(entry.first, entry.num_samples, entry.count) for entry in suspects]


@pytest.mark.parametrize(
    ("failures", "want"),
    [
        pytest.param([at(0), at(0)], [(0, 8, 2)], id="the same micro-batch"),
        pytest.param([at(0), at(8)], [(0, 8, 1), (8, 8, 1)], id="neighbours"),
        pytest.param([at(0), at(3, 1)], [(3, 1, 2)], id="then the very sample"),
        pytest.param([at(3, 1), at(0)], [(3, 1, 2)], id="the very sample before"),
        pytest.param([at(3, 1), at(0), at(5, 1)], [(3, 1, 2), (5, 1, 1)], id="another in it"),
        pytest.param([at(0), at(8), at(0)], [(8, 8, 1), (0, 8, 2)], id="the newest is last"),
        pytest.param([at(0, cause="Signal"), at(0)], [(0, 8, 2)], id="whatever the error"),
        pytest.param([at(0, cause="OutOfMemory")], [], id="too little memory"),
        pytest.param([at(0, number=0)], [], id="a worker that was not warm yet"),
        pytest.param([at(0, cause="Infrastructure")], [], id="a lost node"),
        pytest.param([at(0, cause="InvalidJob")], [], id="a mistake in the job"),
        pytest.param([at(None, 0)], [], id="no sample was worked on"),
        pytest.param([at(0, 0)], [], id="an empty range"),
    ],
)
def test_samples_are_recognised(failures, want):
    assert after(*failures) == want


def test_a_program_that_has_not_trained_anything_is_to_blame_itself():
    assert after(at(0), at(0), at(0), step=0) == []


def test_only_so_many_are_remembered():
    suspects = after(*(at(8 * number) for number in range(REMEMBERED + 5)))
    assert len(suspects) == REMEMBERED
    assert suspects[0] == (40, 8, 1)


@pytest.mark.parametrize(
    ("counts", "want"), [([], None), ([1, 2], None), ([2, 3], "samples 8 to 15")]
)
def test_the_third_failure_blames_the_samples(counts, want):
    suspects = tuple(
        SuspectSamples(first=8 * place, num_samples=8, count=count)
        for place, count in enumerate(counts)
    )
    guilty = poison(suspects)
    assert (guilty and named(guilty)) == want


def test_a_single_sample_is_named_alone():
    assert named(SuspectSamples(first=7)) == "sample 7"
