import pytest

from concertina_trainer.agent.leave import Leave


@pytest.mark.parametrize(
    ("grace_seconds", "want_deadline"),
    [pytest.param(120, 1118, id="a cluster's"), pytest.param(1, 1000.9, id="short")],
)
def test_workers_get_the_grace_period_less_a_margin(grace_seconds, want_deadline):
    leave = Leave(grace_seconds)
    assert leave.deadline is None

    leave.order(now=1000)

    assert leave.deadline == pytest.approx(want_deadline)
    assert not leave.at_once


@pytest.mark.parametrize(
    ("granted", "want_deadline"),
    [pytest.param(20, 18, id="less than usual"), pytest.param(500, 118, id="never more")],
)
@pytest.mark.parametrize("told_first", [True, False])
def test_a_deletion_may_grant_less_time(granted, want_deadline, told_first):
    leave = Leave(120)
    if told_first:
        leave.shorten(granted)
    leave.order(now=0)
    if not told_first:
        leave.shorten(granted)

    assert leave.deadline == want_deadline


def test_a_second_order_ends_at_once_and_moves_no_deadline():
    leave = Leave(10)
    leave.order(now=0)
    leave.order(now=5)

    assert leave.at_once
    assert leave.deadline == 9
