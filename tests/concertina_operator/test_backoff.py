from datetime import timedelta

import pytest

from concertina_operator.backoff import LONGEST, after_giving_back, backoff

BASE = timedelta(seconds=2)


@pytest.mark.parametrize(("attempt", "want_least"), [(1, 2), (2, 4), (5, 32), (9, 512), (99, 600)])
def test_the_waiting_time_doubles_up_to_a_limit(attempt, want_least):
    got = backoff(attempt, base=BASE, job_uid="a")
    assert timedelta(seconds=want_least) <= got <= 2 * timedelta(seconds=want_least)
    assert got <= 2 * LONGEST


def test_jobs_part_but_each_always_waits_the_same():
    waits = {uid: backoff(3, base=BASE, job_uid=uid) for uid in "abcdefgh"}
    assert len(set(waits.values())) == 8
    assert waits == {uid: backoff(3, base=BASE, job_uid=uid) for uid in "abcdefgh"}


@pytest.mark.parametrize(("ready_seconds", "want_least"), [(600, 30), (30, 30), (5, 5), (0, 2)])
def test_a_job_whose_pods_are_expected_soon_asks_for_them_again_soon(ready_seconds, want_least):
    ready_deadline = timedelta(seconds=ready_seconds)
    got = after_giving_back(1, ready_deadline=ready_deadline, job_uid="a")
    assert timedelta(seconds=want_least) <= got <= 2 * timedelta(seconds=want_least)
