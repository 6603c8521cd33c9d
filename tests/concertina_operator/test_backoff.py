from datetime import timedelta

import pytest

from concertina_operator.backoff import LONGEST, backoff

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
