"""What a reflector knows: the newest version of each object of one kind.

A watch tells everything in order, so what the answer to an own write says is news only as long as
the watch has not come that far; such answers are put in as well (`put_answer`), so that the next
plan knows what this process has just done. Pure: no I/O, no clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Key(NamedTuple):
    """Names an object of a known kind."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[T]):
    """One object."""

    version: int
    value: T


class Store(Generic[T]):
    """Objects by namespace and name, with how far the watch has come."""

    def __init__(self) -> None:
        self._entries: dict[Key, Entry[T]] = {}
        self._watched_to = 0
        self.newest = 0
        """The highest version that was ever seen."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> T | None:
        """The newest value, if the object is there."""
        entry = self._entries.get(key)
        return entry.value if entry is not None else None

    def version(self, key: Key) -> int | None:
        """Of the newest value, if the object is there."""
        entry = self._entries.get(key)
        return entry.version if entry is not None else None

    def all_keys(self) -> tuple[Key, ...]:
        """All objects that are there."""
        return tuple(self._entries)

    def watched(self, version: int) -> None:
        """The watch has told everything up to `version`."""
        self._watched_to = max(self._watched_to, version)
        self.newest = max(self.newest, version)

    def put(self, key: Key, value: T, *, version: int) -> bool:
        """Takes what the watch or a list says; False when it is not news."""
        entry = self._entries.get(key)
        if entry is not None and entry.version >= version:
            return False
        self._entries[key] = Entry(version=version, value=value)
        self.newest = max(self.newest, version)
        return True

    def put_answer(self, key: Key, value: T, *, version: int) -> bool:
        """Takes what an answer to an own write says; the watch has the last word."""
        return version > self._watched_to and self.put(key, value, version=version)

    def remove(self, key: Key) -> T | None:
        """Forgets an object that is gone; its last value."""
        entry = self._entries.pop(key, None)
        return entry.value if entry is not None else None

    def remove_unlisted(self, listed: Iterable[Key], *, version: int) -> tuple[tuple[Key, T], ...]:
        """Forgets what a list of `version` does not have, unless it is newer than the list."""
        gone = [
            key
            for key in self._entries.keys() - set(listed)
            if self._entries[key].version <= version
        ]
        return tuple((key, self._entries.pop(key).value) for key in gone)

    def begin_anew(self) -> None:
        """Whatever comes counts as newer: the server has gone back to an older state."""
        for key, entry in self._entries.items():
            self._entries[key] = Entry(version=0, value=entry.value)
        self._watched_to = self.newest = 0


def key_of(document: Mapping[str, Any]) -> Key:
    """Namespace and name of an API object."""
    metadata = document["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


def version_of(document: Mapping[str, Any]) -> int:
    """resourceVersion of an API object or list; versions of one kind can be compared."""
    return int(document["metadata"]["resourceVersion"])
