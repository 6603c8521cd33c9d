"""Looks at pods that were asked for and not answered, before their job is planned again.

Used by apply.py. The server may have created such a pod, and the watch may tell of it later than of
what makes room for another: a plan that does not know of it would create one more, under another
name. A read that asks for no version is as new as any write. What is remembered may be lost: a new
leader lists everything anew.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from concertina_operator.cluster import paths
from concertina_operator.cluster.client import Api
from concertina_operator.cluster.errors import NotFound
from concertina_operator.cluster.pod_facts import is_watched, owner_of


class Unanswered:
    """Names of pods that may be there, by the uid of their job."""

    def __init__(self, api: Api, *, take_pod: Callable[[Mapping[str, Any]], None]) -> None:
        """`take_pod` is told what was read."""
        self._api = api
        self._take_pod = take_pod
        self._names: defaultdict[str, set[str]] = defaultdict(set)

    @contextmanager
    def unless_answered(self, job_uid: str, name: str) -> Iterator[None]:
        """Remembers a pod whose creation fails within: however it does, the pod may be there."""
        self._names[job_uid].add(name)
        yield
        self._forget(job_uid, name)

    async def look(self, namespace: str, *, job_uid: str) -> None:
        """Reads what is remembered, and forgets it. Raises ApiError.

        A pod that is not the job's own is news for the next creation under its name.
        """
        for name in sorted(self._names.get(job_uid, ())):
            try:
                pod = await self._api.call("GET", paths.pods(namespace, name))
            except NotFound:
                pass
            else:
                if owner_of(pod) == job_uid and is_watched(pod):
                    self._take_pod(pod)
            self._forget(job_uid, name)

    def forget_job(self, job_uid: str) -> None:
        """The job is gone."""
        self._names.pop(job_uid, None)

    def _forget(self, job_uid: str, name: str) -> None:
        names = self._names.get(job_uid, set())
        names.discard(name)
        if not names:
            self._names.pop(job_uid, None)
