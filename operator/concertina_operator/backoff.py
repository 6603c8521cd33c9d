"""Decides how long to wait before pods are created again. Called by plan.py.

Pure: no I/O, no clock, no randomness: the jitter is a hash of the job and the attempt, so that two
jobs which hold each other's pods part, and the same plan always comes out the same.
"""

import hashlib
from datetime import timedelta

LONGEST = timedelta(seconds=600)
LONGEST_WITH_JITTER = 2 * LONGEST
AFTER_FAILURE = timedelta(seconds=2)
_AFTER_GIVING_BACK = timedelta(seconds=30)


def backoff(attempt: int, *, base: timedelta, job_uid: str) -> timedelta:
    """Waiting time after the `attempt`-th attempt in a row that failed (from 1).

    base x 2^(attempt - 1), at most LONGEST, plus up to as much again as jitter.
    """
    delay = min(base * 2 ** min(attempt - 1, 16), LONGEST)
    digest = hashlib.sha256(f"{job_uid}/{attempt}".encode()).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    return timedelta(seconds=round(delay.total_seconds() * (1 + share), 3))


def after_giving_back(attempt: int, *, ready_deadline: timedelta, job_uid: str) -> timedelta:
    """Waiting time after pods were not admitted within `ready_deadline` and were given back.

    A job whose pods are expected soon asks for them again soon.
    """
    base = max(min(_AFTER_GIVING_BACK, ready_deadline), AFTER_FAILURE)
    return backoff(attempt, base=base, job_uid=job_uid)
