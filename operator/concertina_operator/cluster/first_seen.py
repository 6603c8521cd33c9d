"""Remembers when this process first saw an object. Used by observe.py.

An object's creationTimestamp is the API server's time, and its age by our clock means nothing.
Pure: no I/O, no clock.
"""

from datetime import datetime

from concertina_operator.cluster.store import Key


class FirstSeen:
    """Objects of one kind."""

    def __init__(self) -> None:
        self._at: dict[Key, tuple[str, datetime]] = {}

    def at(self, key: Key, *, uid: str, now: datetime) -> datetime:
        """When it was first asked for this very object."""
        known = self._at.get(key)
        if known is None or known[0] != uid:
            known = self._at[key] = uid, now
        return known[1]

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._at.pop(key, None)
