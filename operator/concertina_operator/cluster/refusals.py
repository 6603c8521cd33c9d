"""Remembers what the server would not create, so that the plan can wait for it.

A creation that quota or admission refuses, or whose name somebody else has, counts as a pod that
is Pending for the reason that the server gave: the plan shows the words, waits no longer than for
any other pod, and gives it back. Meanwhile the creation is tried again, less and less often. Of
other objects only the server's words are kept, for people. What is remembered may be lost: a new
leader tries at once. Pure: no I/O, no clock.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from concertina_operator.backoff import backoff
from concertina_operator.observed import PodFacts

FIRST_PAUSE: Final = timedelta(seconds=2)
_SLOWEST_ATTEMPT: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A pod that was not created."""

    name: str
    words: str
    """The server's own, or whose the name is."""
    is_taken: bool
    """An object of that name belongs to somebody else."""
    since: datetime
    attempts: int
    again_at: datetime

    @property
    def uid(self) -> str:
        """Stands for the uid that the pod does not have; no server draws such a one."""
        return f"refused.{self.name}"

    def as_pod(self) -> PodFacts:
        """The pod as the plan sees it: Pending since it was first refused."""
        return PodFacts(
            name=self.name,
            uid=self.uid,
            created=self.since,
            placed=False,
            message=f"{self.name}: {self.words}",
        )


class Refusals:
    """Refused pods by job uid and name, and other objects by job uid and kind."""

    def __init__(self) -> None:
        self._by_job: defaultdict[str, dict[str, Refusal]] = defaultdict(dict)
        self._objects: defaultdict[str, dict[str, str]] = defaultdict(dict)

    def of(self, job_uid: str) -> tuple[Refusal, ...]:
        """The refusals of a job, by name."""
        known = self._by_job.get(job_uid, {})
        return tuple(known[name] for name in sorted(known))

    def note(
        self, job_uid: str, name: str, *, words: str, is_taken: bool, now: datetime
    ) -> Refusal:
        """Takes down that a creation was refused now."""
        last = self._by_job[job_uid].get(name)
        attempts = 1 + (last.attempts if last is not None else 0)
        attempt = min(attempts, _SLOWEST_ATTEMPT)
        refusal = Refusal(
            name=name,
            words=words,
            is_taken=is_taken,
            since=last.since if last is not None else now,
            attempts=attempts,
            again_at=now + backoff(attempt, base=FIRST_PAUSE, job_uid=f"{job_uid}/{name}"),
        )
        self._by_job[job_uid][name] = refusal
        return refusal

    def forget(self, job_uid: str, name: str) -> None:
        """The pod was created, or is not wanted any more."""
        known = self._by_job.get(job_uid, {})
        known.pop(name, None)
        if not known:
            self._by_job.pop(job_uid, None)

    def forget_all_but(self, job_uid: str, names: Collection[str]) -> None:
        """No other pods than these are wanted any more."""
        for refusal in self.of(job_uid):
            if refusal.name not in names:
                self.forget(job_uid, refusal.name)

    def note_object(self, job_uid: str, kind: str, *, words: str) -> None:
        """Takes down why the server would not take the job's object of a kind; "" when it did."""
        if words:
            self._objects[job_uid][kind] = words
        elif job_uid in self._objects:
            self._objects[job_uid].pop(kind, None)

    def objects_of(self, job_uid: str) -> Mapping[str, str]:
        """The server's words by kind of object."""
        return self._objects.get(job_uid, {})

    def forget_job(self, job_uid: str) -> None:
        """The job is gone."""
        self._by_job.pop(job_uid, None)
        self._objects.pop(job_uid, None)


def time_to_next(refusals: Iterable[Refusal], *, now: datetime) -> timedelta | None:
    """Time until the next attempt; one that is due now needs no waiting."""
    return min(
        (refusal.again_at - now for refusal in refusals if refusal.again_at > now), default=None
    )
