import pytest

from concertina_trainer.agent.retry import Retry


def test_waiting_doubles_up_to_a_limit_and_starts_anew_after_a_success():
    retry = Retry(first_seconds=1, most_seconds=6, draw=lambda: 0.5)

    assert [retry.delay_seconds() for _ in range(5)] == [1, 2, 4, 6, 6]
    retry.succeeded()
    assert retry.delay_seconds() == 1


@pytest.mark.parametrize(
    ("draw", "want_seconds"),
    [pytest.param(0.0, 2.0, id="early"), pytest.param(0.999, 5.996, id="late")],
)
def test_no_two_pods_wait_equally_long(draw, want_seconds):
    retry = Retry(first_seconds=4, most_seconds=4, draw=lambda: draw)

    assert retry.delay_seconds() == pytest.approx(want_seconds)


@pytest.mark.parametrize(
    ("asked_seconds", "want_seconds"),
    [
        pytest.param(0.0, 0.5, id="nothing asked"),
        pytest.param(0.1, 0.5, id="less than it would wait anyway"),
        pytest.param(7.0, 7.0, id="more"),
        pytest.param(86400.0, 60.0, id="absurd"),
    ],
)
def test_a_server_is_left_alone_for_as_long_as_it_asks_within_reason(asked_seconds, want_seconds):
    retry = Retry(first_seconds=1, draw=lambda: 0)

    assert retry.delay_seconds(at_least=asked_seconds) == want_seconds


def test_many_failures_are_as_good_as_a_few():
    retry = Retry(first_seconds=1, most_seconds=5, draw=lambda: 0.5)

    assert {retry.delay_seconds() for _ in range(5000)} == {1, 2, 4, 5}
