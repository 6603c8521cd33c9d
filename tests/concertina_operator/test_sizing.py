from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concertina_api.v1alpha1 import Pods
from concertina_operator.sizing import (
    SizingReason,
    fitting_size,
    is_allowed,
    largest_size,
    needed_pods,
    sizing,
)
from tests.concertina_operator.factories import a_spec, at


def a_sizing(spec=None, *, effective=32, wanted_before=1, granted=None, scaled_at=None, now=0):
    return sizing(
        spec or a_spec(),
        effective=effective,
        wanted_before=wanted_before,
        granted=granted,
        scaled_at=None if scaled_at is None else at(scaled_at),
        now=at(now),
    )


@pytest.mark.parametrize(
    ("effective", "workers_per_pod", "want_needed"),
    [
        pytest.param(8, 1, 1, id="one micro-batch"),
        pytest.param(32, 1, 1, id="exactly the threshold"),
        pytest.param(40, 1, 2, id="one micro-batch above the threshold"),
        pytest.param(512, 1, 16, id="the largest batch"),
        pytest.param(64, 2, 1, id="two workers in a pod"),
        pytest.param(72, 2, 2, id="a third worker needs a second pod"),
    ],
)
def test_pods_follow_the_micro_batches_per_worker(effective, workers_per_pod, want_needed):
    spec = a_spec(pods={"min": 1, "max": 4, "workersPerPod": workers_per_pod})
    assert needed_pods(spec, effective=effective) == want_needed


@pytest.mark.parametrize(
    ("pods", "needed", "ceiling", "want_size"),
    [
        pytest.param({"min": 1, "max": 4, "allowed": [1, 2, 4]}, 3, 4, 4, id="rounded up"),
        pytest.param({"min": 1, "max": 4, "allowed": [4, 2, 1]}, 3, 4, 4, id="in any order"),
        pytest.param({"min": 1, "max": 4, "allowed": [1, 2, 4]}, 3, 3, 2, id="down to the ceiling"),
        pytest.param({"min": 1, "max": 4, "allowed": [1, 2, 4]}, 9, 4, 4, id="capped by max"),
        pytest.param({"min": 2, "max": 4}, 1, 4, 2, id="raised to min"),
        pytest.param({"min": 1, "max": 4}, 3, 4, 3, id="any size without a list"),
        pytest.param({"min": 2, "max": 4}, 3, 1, 0, id="none below min"),
        pytest.param({"min": 1, "max": 4, "allowed": [2, 4]}, 1, 1, 0, id="none below the list"),
    ],
)
def test_a_size_is_the_smallest_allowed_one_that_is_enough(pods, needed, ceiling, want_size):
    assert fitting_size(Pods.model_validate(pods), needed=needed, ceiling=ceiling) == want_size


def test_a_growing_batch_wants_more_pods_and_says_so_in_numbers():
    answer = a_sizing(effective=64)
    assert answer.wanted == 2
    assert answer.reason is SizingReason.SCALING_UP
    assert answer.message == (
        "8 micro-batches over 1 worker > maxAccumulation 4, allowed sizes 1, 2, 4 -> wants 2 pods"
    )


def test_a_batch_that_fits_keeps_the_pods():
    answer = a_sizing(effective=32)
    assert (answer.wanted, answer.reason) == (1, SizingReason.SATISFIED)
    assert answer.message == (
        "4 micro-batches over 1 worker <= maxAccumulation 4, allowed sizes 1, 2, 4 -> keeps 1 pod"
    )


@pytest.mark.parametrize(
    ("effective", "before", "now", "want_wanted", "want_left"),
    [
        pytest.param(64, 1, 59, 1, 1, id="up waits for its cooldown"),
        pytest.param(64, 1, 60, 2, None, id="up after its cooldown"),
        pytest.param(32, 2, 60, 2, 240, id="down waits for its own cooldown"),
        pytest.param(32, 2, 300, 1, None, id="down after its cooldown"),
    ],
)
def test_cooldowns_are_apart_for_up_and_down(effective, before, now, want_wanted, want_left):
    answer = a_sizing(effective=effective, wanted_before=before, scaled_at=0, now=now)
    assert answer.wanted == want_wanted
    assert answer.requeue_after == (None if want_left is None else timedelta(seconds=want_left))
    assert (answer.reason is SizingReason.COOLING_DOWN) == (want_left is not None)


@pytest.mark.parametrize(
    ("effective", "before", "granted", "want_wanted", "want_reason"),
    [
        pytest.param(512, 4, None, 4, SizingReason.AT_MAXIMUM, id="max is above the request"),
        pytest.param(128, 4, 2, 2, SizingReason.NOT_GRANTED, id="a grant that falls is obeyed"),
        pytest.param(128, 4, 3, 2, SizingReason.NOT_GRANTED, id="a grant between two sizes"),
        pytest.param(128, 4, 0, 0, SizingReason.NOT_GRANTED, id="no grant, no pods"),
        pytest.param(128, 2, 9, 4, SizingReason.SCALING_UP, id="a grant above max is not a wish"),
        pytest.param(32, 3, None, 1, SizingReason.SCALING_DOWN, id="a size no longer allowed"),
        pytest.param(32, 8, None, 1, SizingReason.SCALING_DOWN, id="max fell below the present"),
    ],
)
def test_limits_go_before_the_request(effective, before, granted, want_wanted, want_reason):
    now = 1000 if before == 2 else 1
    answer = a_sizing(
        effective=effective, wanted_before=before, granted=granted, scaled_at=0, now=now
    )
    assert (answer.wanted, answer.reason) == (want_wanted, want_reason)


def test_a_start_knows_no_cooldown():
    assert a_sizing(effective=64, wanted_before=0, scaled_at=0, now=1).wanted == 2


@given(
    effective=st.integers(1, 64).map(lambda n: 8 * n),
    before=st.integers(0, 10),
    granted=st.none() | st.integers(0, 10),
    sizes=st.sets(st.integers(1, 8)),
    limits=st.tuples(st.integers(1, 8), st.integers(1, 8)).map(sorted),
    age=st.integers(0, 400),
)
@settings(deadline=None, max_examples=300)
def test_the_wanted_size_is_allowed_and_never_above_a_limit(
    effective, before, granted, sizes, limits, age
):
    low, high = limits
    allowed = [size for size in sizes if low <= size <= high]
    spec = a_spec(pods={"min": low, "max": high, "allowed": allowed})
    answer = a_sizing(
        spec, effective=effective, wanted_before=before, granted=granted, scaled_at=0, now=age
    )
    assert answer.wanted <= min(high, high if granted is None else granted)
    assert answer.wanted == 0 or is_allowed(spec.pods, size=answer.wanted)
    assert answer.message
    again = a_sizing(
        spec, effective=effective, wanted_before=answer.wanted, granted=granted, scaled_at=0, now=0
    )
    if answer.reason is not SizingReason.COOLING_DOWN and answer.wanted:
        assert again.wanted == answer.wanted


@pytest.mark.parametrize(("at_most", "want"), [(0, 0), (1, 1), (3, 2), (4, 4), (9, 4)])
def test_the_largest_size_fits(at_most, want):
    assert largest_size(a_spec().pods, at_most=at_most) == want
