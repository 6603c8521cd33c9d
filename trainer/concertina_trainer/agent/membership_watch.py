"""The membership as a watch of its resource: what an agent on Kubernetes reads.

A thread keeps one watch open and always goes on from the last version that it has seen, so
nothing between two connections is missed. Without a version to go on from (at the start, and when
the server has forgotten the last one) the object itself is read as well, after the watch is open:
what happens in between is then seen by one of the two.

While the server cannot be reached the newest membership stays what it was, and training goes on.
"""

import logging
import random
import threading
import time
from typing import Any
from urllib.parse import urlencode

from pydantic import ValidationError

from concertina_api.v1alpha1 import Membership, TrainingMembership
from concertina_trainer.agent.api_server import ApiError, ApiServer, Stream
from concertina_trainer.agent.retry import Retry

logger = logging.getLogger(__name__)

PLURAL = "trainingmemberships"
WATCH_SECONDS = 270.0
"""How long the server keeps a watch open, give or take a tenth."""
SILENCE_SECONDS = 90.0
"""A watch on which nothing came for so long is broken: bookmarks come every minute."""
LASTED_SECONDS = 10.0
"""A watch that tells something after so long was a success."""
_GONE = 410


class MembershipWatch:
    """A MembershipSource (see membership.py) that follows the object of a job."""

    def __init__(
        self,
        api: ApiServer,
        job: str,
        *,
        uid: str = "",
        is_due: bool = False,
        retry: Retry | None = None,
        watch_seconds: float = WATCH_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """`uid` is that of the job, which owns its membership; another of the name is none.

        `is_due`: there was one before, so that none now means that it is gone.
        """
        self._api = api
        self._name = job
        self._uid = uid
        self._is_due = is_due
        self._object_uid = ""
        """Of the membership that was believed last."""
        self._retry = retry or Retry()
        self._watch_seconds = watch_seconds
        self._silence_seconds = silence_seconds
        self._latest: Membership | None = None
        self._gone = False
        self._version: str | None = None
        self._trouble = ""
        self._stream: Stream | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="concertina-membership", daemon=True)
        self._thread.start()

    def latest(self) -> Membership | None:
        """See MembershipSource. A lower round than the one read before is not believed."""
        return self._latest

    def gone(self) -> bool:
        """See MembershipSource. An object that is about to be deleted counts as deleted."""
        return self._gone

    def close(self) -> None:
        """End the watch."""
        self._ended.set()
        if self._stream is not None:
            self._stream.abort()
        self._thread.join(timeout=SILENCE_SECONDS)

    def _run(self) -> None:
        while not (self._ended.is_set() or self._gone):
            at_least = 0.0
            try:
                self._follow()
            except Exception as error:  # noqa: BLE001 - the outermost place of this thread
                if isinstance(error, ApiError):
                    at_least = error.retry_after_seconds
                self._lost(error)
            self._ended.wait(self._retry.delay_seconds(at_least=at_least))

    def _follow(self) -> None:
        """Watch until the server ends it. Raises ApiError."""
        knows_nothing = self._version is None
        with self._api.watch(self._query(), silence_seconds=self._silence_seconds) as stream:
            self._stream = stream
            opened = time.monotonic()
            if knows_nothing:
                self._read()
            self._found()
            events = iter(stream)
            while not (self._ended.is_set() or self._gone) and (event := next(events, None)):
                self._take(event)
                if time.monotonic() - opened >= LASTED_SECONDS:
                    self._retry.succeeded()

    def _query(self) -> str:
        query = {
            "watch": "1",
            "fieldSelector": f"metadata.name={self._name}",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(round(self._watch_seconds * random.uniform(0.9, 1.1))),
        }
        if self._version is not None:
            query["resourceVersion"] = self._version
        return f"{self._api.path(PLURAL)}?{urlencode(query)}"

    def _read(self) -> None:
        try:
            document = self._api.call("GET", self._api.path(PLURAL, self._name))
        except ApiError as error:
            if not error.says_missing(self._name):
                raise
            document = {}
        if self._is_ours(document):
            self._believe(document)
        elif self._is_due or self._latest is not None:  # else the first is yet to come
            self._gone = True

    def _take(self, event: dict[str, Any]) -> None:
        """One event of the watch. Raises ApiError for one that ends it."""
        kind, document = event.get("type"), event.get("object")
        if not isinstance(document, dict):
            raise ApiError(f"the watch: an event without an object: {str(event)[:200]}")
        if kind == "ERROR":
            self._version = None
            raise ApiError(
                f"the watch: {document.get('message')}", status=document.get("code") or 0
            )
        if kind == "DELETED" and self._is_ours(document):
            self._gone = True
        elif kind in ("ADDED", "MODIFIED") and self._is_ours(document):
            self._believe(document)
        self._version = document.get("metadata", {}).get("resourceVersion") or self._version

    def _is_ours(self, document: dict[str, Any]) -> bool:
        metadata = document.get("metadata", {})
        owners = [owner.get("uid") for owner in metadata.get("ownerReferences", ())]
        is_known = bool(self._object_uid) and metadata.get("uid") == self._object_uid
        is_owned = not self._uid or self._uid in owners or is_known
        return metadata.get("name") == self._name and is_owned

    def _believe(self, document: dict[str, Any]) -> None:
        metadata = document["metadata"]
        self._object_uid = metadata.get("uid", "")
        if metadata.get("deletionTimestamp"):
            self._gone = True
        try:
            membership = TrainingMembership.model_validate(document).spec
        except ValidationError as error:
            logger.warning("a membership that is not valid is ignored: %s", error)
            return
        if self._latest is None or membership.round >= self._latest.round:
            self._latest = membership

    def _lost(self, error: Exception) -> None:
        status = error.status if isinstance(error, ApiError) else None
        if status in (None, _GONE):
            self._version = None
        if str(error) != self._trouble:
            logger.warning(
                "the membership is not watched now, trying again: %s",
                error,
                exc_info=status is None,
            )
        self._trouble = str(error)

    def _found(self) -> None:
        if self._trouble:
            logger.info("the membership is watched again")
        self._trouble = ""
