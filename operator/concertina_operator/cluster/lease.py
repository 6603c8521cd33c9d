"""Leader election by a Lease, and the fence that keeps a deposed leader from writing.

Used by serve.py; `may_act` is asked before each write (client.py). Only this process's own
monotonic clock is trusted: the renewal of another holder counts from when it was seen here, an own
one from before the request was sent. The lease is over for the holder (`renew_seconds`) before it
is for everybody else (`duration_seconds`), so two never act at once.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from concertina_operator.cluster import paths
from concertina_operator.cluster.client import Api
from concertina_operator.cluster.errors import ApiError, Conflict, NotFound

DURATION_SECONDS: Final = 12
RENEW_SECONDS: Final = 8.0
RETRY_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = RENEW_SECONDS / 2
"""How long one try may take: a second one begins before the lease is over for its holder."""
AGAIN_SECONDS: Final = 0.5
"""Pause after a renewal that failed."""
LOOK_SECONDS: Final = 1.0
"""Pause of those that wait for the lease: what they see late they take over late."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A holder's renewal, and when it was first seen here."""

    renewal: tuple[str, str]
    """Holder and time of renewal, as written."""
    at: float
    """Seconds of the own monotonic clock."""


def sighted(spec: Mapping[str, Any], last: Sighting | None, *, now: float) -> Sighting:
    """The renewal that a lease shows; one that was seen before keeps its time."""
    renewal = (spec.get("holderIdentity") or "", spec.get("renewTime") or "")
    if last is not None and last.renewal == renewal:
        return last
    return Sighting(renewal=renewal, at=now)


def is_free(spec: Mapping[str, Any], sighting: Sighting, *, identity: str, now: float) -> bool:
    """Whether `identity` may take the lease: its own, given up, or not renewed for too long."""
    holder = spec.get("holderIdentity") or ""
    return holder in ("", identity) or now - sighting.at >= _duration(spec)


def time_to_look(spec: Mapping[str, Any], sighting: Sighting, *, now: float) -> float:
    """Seconds until who waits looks again: soon, and at the latest when the lease is over."""
    left = sighting.at + _duration(spec) - now
    return min(LOOK_SECONDS, left) if left > 0 else LOOK_SECONDS


def claimed(spec: Mapping[str, Any], *, identity: str, moment: str) -> dict[str, Any]:
    """The spec of the lease once `identity` holds it."""
    claim = {
        **spec,
        "holderIdentity": identity,
        "leaseDurationSeconds": DURATION_SECONDS,
        "renewTime": moment,
    }
    if spec.get("holderIdentity") != identity:
        transitions = spec.get("leaseTransitions")
        claim["acquireTime"] = moment
        claim["leaseTransitions"] = 0 if transitions is None else transitions + 1
    return claim


class Lease:
    """One candidate for the leadership."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._sighting: Sighting | None = None
        self._spec: Mapping[str, Any] = {}
        """Of the lease as it was last read."""
        self._written: Mapping[str, Any] | None = None
        """The lease as this process wrote it, for as long as it holds."""
        self._held_until = float("-inf")
        self._read_at = float("-inf")

    def may_act(self) -> bool:
        """Whether this process surely leads now."""
        return self._clock() < self._held_until

    def unread_seconds(self) -> float:
        """Since when the lease could not be read; infinite when it never could."""
        return self._clock() - self._read_at

    async def acquire(self) -> None:
        """Waits until this process leads, however long the API server is away."""
        while True:
            if await self._tried():
                break
            await asyncio.sleep(self._pause())
        _log.info("%s leads", self._identity)

    async def keep(self) -> None:
        """Renews the lease; returns when it is lost."""
        pause = RETRY_SECONDS
        while True:
            await asyncio.sleep(pause)
            is_held = await self._tried()
            if is_held is False or not self.may_act():
                self._held_until = float("-inf")
                return
            pause = RETRY_SECONDS if is_held else AGAIN_SECONDS

    async def release(self) -> None:
        """Gives the lease up, so that another replica need not wait for its end."""
        if not self.may_act():
            return
        self._held_until = float("-inf")
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                await self._give_up()
        except (ApiError, TimeoutError) as error:
            _log.info("the lease was not given up, it will run out: %s", error)

    @property
    def _path(self) -> str:
        return paths.leases(self._namespace, self._name)

    def _pause(self) -> float:
        if self._sighting is None:
            return LOOK_SECONDS
        return time_to_look(self._spec, self._sighting, now=self._clock())

    async def _give_up(self) -> None:
        while True:
            # As it is now: a renewal may have been on its way when this process was told to end.
            lease = await self._api.call("GET", self._path)
            if lease["spec"].get("holderIdentity") != self._identity:
                return
            spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
            try:
                await self._api.call("PUT", self._path, body={**lease, "spec": spec})
            except Conflict:
                continue
            return

    async def _tried(self) -> bool | None:
        """Whether the lease is held now; None when that cannot be said yet."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await (self._renew() if self._written is not None else self._try())
        except (ApiError, TimeoutError) as error:
            _log.warning("the lease cannot be read or written: %r", error)
            return None

    async def _renew(self) -> bool | None:
        """Renews without reading first: a server that is slow has one request to answer, not two."""
        assert self._written is not None
        lease, self._written = self._written, None
        try:
            await self._claim(lease)
        except (Conflict, NotFound):
            return await self._try()
        return True

    async def _try(self) -> bool | None:
        """Takes the lease where it is free, and renews it where it is ours."""
        try:
            lease = await self._api.call("GET", self._path)
        except NotFound:
            lease = None
        self._read_at = self._clock()
        self._spec = spec = lease["spec"] if lease is not None else {}
        self._sighting = sighted(spec, self._sighting, now=self._clock())
        if not is_free(spec, self._sighting, identity=self._identity, now=self._clock()):
            return False
        try:
            await self._claim(lease)
        except Conflict:
            return None
        return True

    async def _claim(self, lease: Mapping[str, Any] | None) -> None:
        """Writes the lease as its holder. Raises Conflict when it has changed since it was read."""
        asked_at = self._clock()
        spec = lease["spec"] if lease is not None else {}
        claim = claimed(spec, identity=self._identity, moment=_micro_time(datetime.now(UTC)))
        if lease is None:
            document = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": claim,
            }
            path = paths.leases(self._namespace)
            answer = await self._api.call("POST", path, body=document)
        else:
            # It carries the resourceVersion that was read: one candidate wins.
            answer = await self._api.call("PUT", self._path, body={**lease, "spec": claim})
        self._written = answer
        self._read_at = self._clock()
        self._held_until = asked_at + RENEW_SECONDS


def _duration(spec: Mapping[str, Any]) -> float:
    return float(spec.get("leaseDurationSeconds") or DURATION_SECONDS)


def _micro_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
