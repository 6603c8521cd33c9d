"""Keeps a store equal to what the API server has of one kind: list, then watch, for ever.

Started by serve.py, one for each kind but the job itself. What vanished while the watch was cut
off is told as deleted after the next list, which is made anew every ten minutes and whenever the
watch cannot be continued.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, Generic, TypeVar

from concertina_operator.cluster.client import Api, ApiError, Gone, Unreachable
from concertina_operator.cluster.store import Key, Store, key_of, version_of

T = TypeVar("T")

PAGE: Final = 500
"""Objects of one answer to a list."""
RELIST_SECONDS: Final = 600.0
_PAUSE_SECONDS: Final = (0.5, 1.0, 2.0, 5.0)

_log = logging.getLogger(__name__)


class Reflector(Generic[T]):
    """Follows the objects at one path."""

    def __init__(
        self,
        api: Api,
        path: str,
        store: Store[T],
        *,
        read: Callable[[Mapping[str, Any], T | None], T],
        on_change: Callable[[Key, T], None],
        params: Mapping[str, str] | None = None,
    ) -> None:
        """`read` makes the stored value of an object, given the one before.

        `on_change` is told each new value, and the last one of an object that is gone.
        """
        self._api = api
        self._path = path
        self._store = store
        self._read = read
        self._on_change = on_change
        self._params = dict(params or {})
        self.synced = asyncio.Event()
        """Set once everything has been listed."""
        self.heard_at = time.monotonic()
        """When the server last said anything here, in seconds of time.monotonic()."""

    async def run(self) -> None:
        """Follows for ever; the API server may be away for as long as it likes."""
        failures = 0
        self.heard_at = time.monotonic()
        while True:
            try:
                version = await self._list()
                failures = 0
                await self._watch(version)
            except ApiError as error:
                pause = _PAUSE_SECONDS[min(failures, len(_PAUSE_SECONDS) - 1)]
                failures += 1
                level = logging.DEBUG if isinstance(error, Gone) else logging.WARNING
                _log.log(level, "%s: %s; lists again", self._path, error)
                await asyncio.sleep(pause * (0.5 + random.random()))

    def take_answer(self, document: Mapping[str, Any]) -> None:
        """Takes an object from the answer to an own write."""
        key = key_of(document)
        value = self._read(document, self._store.get(key))
        if self._store.put_answer(key, value, version=version_of(document)):
            self._on_change(key, value)

    async def _list(self) -> str:
        """Takes everything that is there; the version from which to watch."""
        listed: list[Key] = []
        params = {**self._params, "limit": str(PAGE)}
        while True:
            page = await self._api.call("GET", self._path, params=params)
            self.heard_at = time.monotonic()
            for document in page["items"]:
                listed.append(key_of(document))
                self._put(document)
            if not (following := page["metadata"].get("continue")):
                break
            params["continue"] = following
        version = version_of(page)
        for key, value in self._store.remove_unlisted(listed, version=version):
            self._on_change(key, value)
        self._store.watched(version)
        self.synced.set()
        return str(version)

    async def _watch(self, version: str) -> None:
        """Follows from `version` on until it is time to list again."""
        ends_at = time.monotonic() + RELIST_SECONDS * (0.9 + 0.2 * random.random())
        while time.monotonic() < ends_at:
            params = {**self._params, "resourceVersion": version}
            try:
                async with aclosing(self._api.watch(self._path, params=params)) as events:
                    async for event in events:
                        self.heard_at = time.monotonic()
                        version = self._take(event["type"], event["object"])
            except Unreachable as error:
                _log.info("%s; goes on from version %s", error, version)
                await asyncio.sleep(_PAUSE_SECONDS[0] * (0.5 + random.random()))
            else:
                # The server ended a stream on which there may have been nothing to say.
                self.heard_at = time.monotonic()

    def _take(self, kind: str, document: Mapping[str, Any]) -> str:
        if kind == "DELETED":
            key = key_of(document)
            value = self._store.remove(key)
            if value is not None:
                self._on_change(key, value)
        elif kind != "BOOKMARK":
            self._put(document)
        self._store.watched(version_of(document))
        return str(document["metadata"]["resourceVersion"])

    def _put(self, document: Mapping[str, Any]) -> None:
        key = key_of(document)
        value = self._read(document, self._store.get(key))
        if self._store.put(key, value, version=version_of(document)):
            self._on_change(key, value)
