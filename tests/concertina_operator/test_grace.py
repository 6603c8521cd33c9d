import pytest

from concertina_api.v1alpha1 import JobStatus
from concertina_operator.grace import grace_shortfall
from tests.concertina_operator.factories import a_spec


def a_resized_status(*, pause=3.0, rate=8.0):
    return JobStatus.model_validate(
        {
            "batch": {"effective": 64},
            "progress": {"samplesPerSecond": rate},
            "lastResize": {"fromWorldSize": 1, "toWorldSize": 2, "pauseSeconds": pause},
        }
    )


def a_spec_with(grace):
    template = {} if grace is None else {"spec": {"terminationGracePeriodSeconds": grace}}
    return a_spec(pods={"min": 1, "max": 4, "template": template})


@pytest.mark.parametrize(
    ("grace", "status", "want"),
    [
        pytest.param(
            10,
            a_resized_status(),
            "a step takes 8 s and the last hand-over took 3 s",
            id="too-short",
        ),
        pytest.param(
            10, a_resized_status(), "the 10 s of terminationGracePeriodSeconds", id="says-the-rule"
        ),
        pytest.param(None, a_resized_status(rate=0.5), "more than the 120 s", id="default"),
    ],
)
def test_says_what_was_measured_and_what_it_exceeds(grace, status, want):
    assert want in grace_shortfall(a_spec_with(grace), status=status)


@pytest.mark.parametrize(
    ("grace", "status"),
    [
        pytest.param(11, a_resized_status(), id="just-enough"),
        pytest.param(None, a_resized_status(), id="default"),
        pytest.param("soon", a_resized_status(), id="no-number-is-refused-elsewhere"),
        pytest.param(1, a_resized_status(rate=None), id="rate-unknown"),
        pytest.param(1, a_resized_status(pause=None), id="pause-unknown"),
        pytest.param(1, JobStatus(), id="never-resized"),
    ],
)
def test_is_silent_when_there_is_time_or_nothing_was_measured(grace, status):
    assert grace_shortfall(a_spec_with(grace), status=status) == ""
