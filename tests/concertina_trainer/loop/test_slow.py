import pytest

from concertina_trainer.loop.slow import HORIZON_STEPS, Waiting


def after(seconds, *, steps=HORIZON_STEPS, before=None):
    waiting = before or Waiting()
    for _ in range(steps):
        waiting = waiting.after_step(seconds, step_seconds=2.0)
    return waiting


@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        pytest.param([0.0, 1.0], (0,), id="one of two"),
        pytest.param([1.0, 1.1, 0.1, 1.2], (2,), id="one of four"),
        pytest.param([0.1, 1.0, 0.2, 1.2], (0, 2), id="two of four"),
        pytest.param([0.1, 0.4, 0.3, 0.2], (), id="all are alike"),
        pytest.param([1.0, 1.1, 1.2, 0.9], (), id="all wait for the network"),
        pytest.param([0.0, 0.1, 0.1, 1.9], (), id="one that is faster than most"),
        pytest.param([0.0], (), id="alone"),
    ],
)
def test_slow_is_who_never_waits_while_all_others_do(seconds, want):
    assert after(seconds).slow_ranks == want


def test_nobody_is_called_slow_after_few_steps():
    assert after([0.0, 1.0], steps=HORIZON_STEPS - 1).slow_ranks == ()


def test_who_is_as_fast_as_the_others_again_is_not_called_slow_for_long():
    slow = after([0.0, 1.0])
    assert after([0.1, 0.1], steps=HORIZON_STEPS, before=slow).slow_ranks == ()


@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        pytest.param([0.1, 0.6], (0,), id="between the limits"),
        pytest.param([0.1, 0.4], (), id="below both"),
        pytest.param([0.6, 0.1], (), id="another one between the limits"),
    ],
)
def test_who_is_slow_stays_so_between_the_limits_and_nobody_else_becomes_it(seconds, want):
    assert after(seconds, steps=10 * HORIZON_STEPS).slow_ranks == ()
    slow = after([0.0, 1.0])
    assert after(seconds, steps=10 * HORIZON_STEPS, before=slow).slow_ranks == want


def test_one_long_step_makes_nobody_slow():
    fast = after([0.1, 0.1])
    assert fast.after_step([0.0, 5.0], step_seconds=6.0).slow_ranks == ()


def test_a_step_without_a_length_says_nothing():
    assert Waiting().after_step([0.0, 0.0], step_seconds=0.0) == Waiting()
