"""Reads the times of a status as the clock of this process can understand them.

Called by situation.py before anything is planned. Another leader wrote them, on another machine,
by a clock that may be ahead or behind: no difference between its times and ours means anything. So
nothing has happened later than now, and an answer is not overdue before we have waited for it
ourselves. Pure: no I/O, no clock.
"""

from datetime import datetime
from typing import Any, Final

from concertina_api.v1alpha1 import JobStatus
from concertina_operator.backoff import LONGEST_WITH_JITTER

_PAST: Final = (
    "active_since",
    "below_min_since",
    "completion_time",
    "gpu_counted_at",
    "probe_at",
    "round_at",
    "scaled_at",
    "start_time",
    "waiting_since",
)
"""Fields that name a moment that is over."""


def in_own_time(before: JobStatus, *, known_since: datetime | None, now: datetime) -> JobStatus:
    """The status of the previous plan, whoever made it, with no time that is later than it can be.

    `known_since` is when this process first looked at the job; None when no other has.
    """
    found = ((name, getattr(before, name)) for name in _PAST)
    times: dict[str, Any] = {name: min(moment, now) for name, moment in found if moment is not None}
    if known_since is not None and "probe_at" in times:
        times["probe_at"] = max(times["probe_at"], known_since)
    if (not_before := before.retry.not_before) is not None:
        latest = min(not_before, now + LONGEST_WITH_JITTER)
        times["retry"] = before.retry.model_copy(update={"not_before": latest})
    times["offences"] = tuple(
        entry.model_copy(update={"at": tuple(min(moment, now) for moment in entry.at)})
        for entry in before.offences
    )
    return before.model_copy(update=times)
