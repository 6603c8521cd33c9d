"""Reads what pods that have ended well have said last, before a plan is made of their end.

Called by the reconcile. An agent writes its last report before it ends, but pods and reports are
watched apart: where the end is heard first, workers that are finished would pass for lost ones.
"""

from collections.abc import Callable, Mapping
from typing import Any

from concertina_operator.cluster import paths
from concertina_operator.cluster.client import Api
from concertina_operator.cluster.observe import Watched
from concertina_operator.cluster.store import Key
from concertina_operator.departures import OVER


class LastWords:
    """The reports of pods that have ended."""

    def __init__(
        self, api: Api, *, watched: Watched, take_report: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """`take_report` is told what was read."""
        self._api = api
        self._watched = watched
        self._take_report = take_report
        self._read: dict[Key, frozenset[str]] = {}
        """Pods whose reports were read since they ended, by job; uids."""

    async def hear(self, job: Key, *, job_uid: str) -> None:
        """Reads, once for each pod, the reports of pods that ended with 0 and have not said why.

        Raises ApiError.
        """
        ended = {
            pod.facts.uid: name
            for name, pod in self._watched.pods_of(job, job_uid=job_uid).items()
            if pod.facts.exit_code == 0
        }
        read = self._read.pop(job, frozenset()) & ended.keys()
        for uid, name in ended.items():
            if uid not in read and not self._is_told(name):
                await self._hear(name)
        if ended:
            self._read[job] = frozenset(ended)

    def forget(self, job: Key) -> None:
        """The job is gone."""
        self._read.pop(job, None)

    def _is_told(self, pod: Key) -> bool:
        heard = self._watched.reports.get(pod)
        return heard is not None and heard.report is not None and heard.report.phase in OVER

    async def _hear(self, pod: Key) -> None:
        # A list of one, which takes no other right than the watch.
        chosen = {"fieldSelector": f"metadata.name={pod.name}"}
        async for page in self._api.pages(paths.reports(pod.namespace), size=1, params=chosen):
            for document in page["items"]:
                self._take_report(document)
