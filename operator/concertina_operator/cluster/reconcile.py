"""One reconcile: look at one job, plan, store the status, act.

Called by the workers (workers.py) with a key from the queue; what to do is decided in plan.py, here
it is done. In order:

1. The job as it was last seen, and what is known of its pods, membership and reports; what a watch
   may be late to tell is read first (unanswered.py, last_words.py).
2. The plan, with what only this shell can say (decide.py).
3. The job is confirmed live: by the status patch, which carries the resourceVersion that was
   planned from, else by a read. A job that has changed meanwhile is planned anew.
4. Actions. Their effects are seen by the next reconcile.

A reconcile that finds nothing to do asks the API server nothing.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import Scaling
from concertina_operator.actions import Event, EventType, Plan
from concertina_operator.cluster import paths
from concertina_operator.cluster.apply import Hands
from concertina_operator.cluster.claims import is_managed_here, time_to_expiry
from concertina_operator.cluster.client import MERGE_PATCH, Api
from concertina_operator.cluster.decide import Decisions
from concertina_operator.cluster.deeds import news
from concertina_operator.cluster.errors import Conflict, NotFound
from concertina_operator.cluster.events import Events
from concertina_operator.cluster.facts import read_job, read_status
from concertina_operator.cluster.invalid import invalid_status
from concertina_operator.cluster.last_words import LastWords
from concertina_operator.cluster.metrics import Metrics
from concertina_operator.cluster.observe import Watched
from concertina_operator.cluster.records import RefusedKind
from concertina_operator.cluster.refusals import Refusals
from concertina_operator.cluster.store import Key, key_of
from concertina_operator.cluster.stored_status import (
    is_only_time,
    status_patch,
    time_until_worth_it,
)
from concertina_operator.cluster.target import Target
from concertina_operator.statement import POD_EVENTS

AT_ONCE: Final = timedelta(0)
_AFTER_ACTIONS: Final = timedelta(seconds=1)
"""Effects are seen by a watch sooner than that; what was refused is not."""
_REFUSED: Final = {
    "InvalidJob": RefusedKind.JOB,
    "ReportRefused": RefusedKind.REPORT,
    "TemplateInvalid": RefusedKind.TEMPLATE,
}
"""What events of these reasons say was refused."""
_OF_PODS: Final = POD_EVENTS | {"PodRefused"}
"""Reasons of events that tell of pods."""

_log = logging.getLogger(__name__)


class Reconciler:
    """Reconciles any job.

    What it remembers beside the stores may be lost: a new leader asks the server again.
    """

    def __init__(
        self,
        api: Api,
        *,
        watched: Watched,
        hands: Hands,
        last_words: LastWords,
        refusals: Refusals,
        events: Events,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._watched = watched
        self._hands = hands
        self._last_words = last_words
        self._refusals = refusals
        self._decisions = Decisions(api, watched=watched, refusals=refusals)
        self._events = events
        self._metrics = metrics
        self._clock = clock
        self._uids: dict[Key, str] = {}

    async def reconcile(self, key: Key) -> timedelta | None:
        """Brings one job a step on; the time after which to look again without any news.

        Raises ApiError when the API server could not be asked or refused; then try again.
        """
        document = self._watched.jobs.get(key)
        self._forget_others(key, document)
        if document is None or "deletionTimestamp" in document["metadata"]:
            return None  # its objects go with it: the API server collects them
        if not is_managed_here(document):
            self._metrics.jobs.forget(key)
            return None
        try:
            job = read_job(document)
        except InvalidJob as error:
            return await self._refuse(document, str(error))
        if job.spec.scaling.mode is Scaling.OFF:
            self._refusals.forget_job(job.metadata.uid)
            self._metrics.jobs.forget(key)
            return None
        now = self._clock()
        expiry = time_to_expiry(job.spec, job.status, now=now)
        if expiry is not None and expiry <= AT_ONCE:
            await self._delete(document)
            return None
        await self._hands.look(key, uid=job.metadata.uid)
        await self._last_words.hear(key, job_uid=job.metadata.uid)
        membership = self._watched.memberships.get(key)
        target = Target(
            job=job,
            document=document,
            membership=membership,
            pod_versions=self._watched.pod_versions(key),
        )
        counted = self._metrics.jobs.counted(key, uid=target.uid, stored=job.status)
        decided = await self._decisions.decide(
            replace(target, job=job.model_copy(update={"status": counted})), now=now
        )
        self._metrics.jobs.planned(key, uid=target.uid, spec=job.spec, status=decided.status)
        wait = await self._carried_out(decided, target=target, now=now)
        retry = self._decisions.time_to_next(target.uid, now=now)
        waits = (wait, decided.requeue_after, expiry, retry)
        return min((wait for wait in waits if wait is not None), default=None)

    async def _carried_out(
        self, decided: Plan, *, target: Target, now: datetime
    ) -> timedelta | None:
        """Stores the status, then acts; the time after which to look whether that went well.

        What the status says is told even when an action fails: the next plan takes it for known.
        """
        before, after = target.job.status, decided.status
        patch = status_patch(before, after)
        wait = time_until_worth_it(patch, before=before, after=after, job_uid=target.uid, now=now)
        is_written = wait is not None and (wait <= AT_ONCE or bool(decided.actions))
        if is_written or decided.actions:
            if not await self._confirmed(target.document, patch if is_written else {}):
                return self._time_to_plan_anew(target.document)
            self._metrics.resized(before, after)
            wait = _AFTER_ACTIONS if decided.actions else None
        deeds = await self._hands.apply(decided, target=target)
        self._tell(target.document, news(decided, deeds), newest_round=after.round, now=now)
        if deeds.error is not None:
            raise deeds.error
        return wait

    async def _confirmed(self, document: Mapping[str, Any], patch: Mapping[str, Any]) -> bool:
        """Patches the status, and whether the job is live as it was planned from."""
        key, metadata = key_of(document), document["metadata"]
        version = metadata["resourceVersion"]
        if patch:
            body = {
                "metadata": {"uid": metadata["uid"], "resourceVersion": version},
                "status": patch,
            }
            try:
                live = await self._api.call(
                    "PATCH", paths.job_status(*key), body=body, content_type=MERGE_PATCH
                )
            except (Conflict, NotFound):
                pass
            else:
                self._watched.job_answer(live)
                return True
        try:
            live = await self._api.call("GET", paths.jobs(*key))
        except NotFound:
            self._watched.job_gone(key)
            return False
        self._watched.job_answer(live)
        return not patch and live["metadata"]["resourceVersion"] == version

    def _time_to_plan_anew(self, document: Mapping[str, Any]) -> timedelta:
        """None, if something newer than the document is known now; else there is time."""
        is_old = self._watched.jobs.get(key_of(document)) is not document
        return AT_ONCE if is_old else _AFTER_ACTIONS

    async def _delete(self, document: Mapping[str, Any]) -> None:
        """Deletes a job that is over for ttlSecondsAfterFinished, unless it has changed."""
        metadata = document["metadata"]
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
        }
        try:
            await self._api.call("DELETE", paths.jobs(*key_of(document)), body=options)
        except NotFound:
            self._watched.job_gone(key_of(document))

    async def _refuse(self, document: Mapping[str, Any], message: str) -> timedelta | None:
        """Says that the job's spec breaks a rule that the API server does not know."""
        now, before = self._clock(), read_status(document)
        key, uid = key_of(document), document["metadata"]["uid"]
        after = invalid_status(
            document,
            before=self._metrics.jobs.counted(key, uid=uid, stored=before),
            message=message,
            pods=[pod.facts for pod in self._watched.pods_of(key, job_uid=uid).values()],
            now=now,
        )
        self._metrics.jobs.planned(key, uid=uid, spec=None, status=after)
        patch = status_patch(before, after)
        if not is_only_time(patch) and not await self._confirmed(document, patch):
            return self._time_to_plan_anew(document)
        event = Event(type=EventType.WARNING, reason="InvalidJob", message=message)
        self._tell(document, (event,), newest_round=after.round, now=now)
        return None

    def _tell(
        self,
        document: Mapping[str, Any],
        events: Iterable[Event],
        *,
        newest_round: int,
        now: datetime,
    ) -> None:
        """Posts, logs and counts what is new; of each pod the hands have logged more."""
        key = key_of(document)
        for event in self._events.tell(document, events, now=now):
            if event.reason not in _OF_PODS:
                level = logging.INFO if event.type is EventType.NORMAL else logging.WARNING
                about = {"round": newest_round}
                _log.log(level, "%s: %s: %s", key, event.reason, event.message, extra=about)
            if event.reason in _REFUSED:
                uid = document["metadata"]["uid"]
                self._metrics.refused(_REFUSED[event.reason], job=key, job_uid=uid)

    def _forget_others(self, key: Key, document: Mapping[str, Any] | None) -> None:
        """Drops what is remembered of a job that had this name before."""
        uid = document["metadata"]["uid"] if document is not None else None
        last = self._uids.get(key)
        if last is not None and last != uid:
            self._hands.forget(key, uid=last)
            self._last_words.forget(key)
            self._decisions.forget(last)
            self._metrics.jobs.forget(key)
            del self._uids[key]
        if uid is not None:
            self._uids[key] = uid
