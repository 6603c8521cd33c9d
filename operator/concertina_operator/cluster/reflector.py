"""Keeps a store equal to what the API server has of one kind: list, then watch, for ever.

Started by shell.py, one for each kind but the job itself. What vanished while the watch was cut
off is told as deleted after the next list, which is made anew every ten minutes and whenever the
watch cannot be continued. A server that is away or in trouble is no reason to list: a list is the
dearest thing to ask of it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, Generic, TypeVar

from concertina_operator.cluster.client import Api
from concertina_operator.cluster.errors import ApiError, Gone, Throttled, Unreachable
from concertina_operator.cluster.store import Key, Store, key_of, version_of

T = TypeVar("T")

PAGE: Final = 500
"""Objects of one answer to a list."""
RELIST_SECONDS: Final = 600.0
SHORTEST_WATCH_SECONDS: Final = 1.0
"""A watch that ends sooner without a word was cut off, by whatever stands in between."""
_LONG_SECONDS: Final = 60.0
"""A failure after that is the first one again."""
PAUSE_SECONDS: Final = (0.5, 1.0, 2.0, 5.0)
"""After the first failure in succession, the second, and so on."""

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
        page: int = PAGE,
        pauses: Sequence[float] = PAUSE_SECONDS,
    ) -> None:
        """`read` makes the stored value of an object, given the one before.

        `on_change` is told each value that is not the one before, and the last one of an object
        that is gone. A list is asked for in answers of `page` objects. `pauses` are seconds, as
        PAUSE_SECONDS.
        """
        self._api = api
        self._path = path
        self._store = store
        self._read = read
        self._on_change = on_change
        self._params = dict(params or {})
        self._page = page
        self._pauses = pauses
        self.synced = asyncio.Event()
        """Set once everything has been listed."""
        self.heard_at = time.monotonic()
        """When the server last said anything here, in seconds of time.monotonic()."""

    async def run(self) -> None:
        """Follows for ever; the API server may be away for as long as it likes."""
        self.heard_at = time.monotonic()
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._watch(await self._list())
            except ApiError as error:
                level = logging.DEBUG if isinstance(error, Gone) else logging.WARNING
                _log.log(level, "%s: %s; lists again", self._path, error)
            if time.monotonic() - began >= _LONG_SECONDS:
                failures = 0
            else:
                await _pause(failures, self._pauses)
                failures += 1

    def take_answer(self, document: Mapping[str, Any]) -> None:
        """Takes an object from the answer to an own write."""
        key = key_of(document)
        before = self._store.get(key)
        value = self._read(document, before)
        if self._store.put_answer(key, value, version=version_of(document)) and value != before:
            self._on_change(key, value)

    async def _list(self) -> str:
        """Takes everything that is there; the version from which to watch."""
        listed: list[Key] = []
        version, known = 0, self._store.newest
        async for page in self._api.pages(self._path, size=self._page, params=self._params):
            self.heard_at = time.monotonic()
            version = version_of(page)
            if version < known:
                _log.warning("%s: version %d < %d: a restored state", self._path, version, known)
                self._store.begin_anew()
                known = 0
            for document in page["items"]:
                listed.append(key_of(document))
                self._put(document)
        for key, value in self._store.remove_unlisted(listed, version=version):
            self._on_change(key, value)
        self._store.watched(version)
        self.synced.set()
        return str(version)

    async def _watch(self, version: str) -> None:
        """Follows from `version` on until it is time to list again."""
        ends_at = time.monotonic() + RELIST_SECONDS * (0.9 + 0.2 * random.random())
        failures = 0
        while time.monotonic() < ends_at:
            began, last = time.monotonic(), version
            version = await self._followed(version)
            if version != last or time.monotonic() - began >= SHORTEST_WATCH_SECONDS:
                failures = 0
            else:
                await _pause(failures, self._pauses)
                failures += 1

    async def _followed(self, version: str) -> str:
        """Follows one stream to its end; the version to go on from."""
        began = time.monotonic()
        try:
            async with aclosing(
                self._api.watch(self._path, params={**self._params, "resourceVersion": version})
            ) as events:
                async for event in events:
                    self.heard_at = time.monotonic()
                    version = self._take(event["type"], event["object"])
        except ApiError as error:
            if not _passes(error):
                raise
            _log.info("watch of %s: %s; goes on from version %s", self._path, error, version)
        else:
            if time.monotonic() - began >= SHORTEST_WATCH_SECONDS:
                # The server ended a stream on which there may have been nothing to say.
                self.heard_at = time.monotonic()
        return version

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
        before = self._store.get(key)
        value = self._read(document, before)
        if self._store.put(key, value, version=version_of(document)) and value != before:
            self._on_change(key, value)


def _passes(error: ApiError) -> bool:
    """Whether the watch may go on from where it was once the server is well again."""
    if isinstance(error, Gone):
        return False
    return isinstance(error, Unreachable | Throttled) or error.status >= 500


async def _pause(failures: int, pauses: Sequence[float]) -> None:
    """Waits after so many failures in succession before this one."""
    seconds = pauses[min(failures, len(pauses) - 1)]
    await asyncio.sleep(seconds * (0.5 + random.random()))
