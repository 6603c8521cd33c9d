"""Leader election by a Lease, and the fence that keeps a deposed leader from writing.

Used by serve.py; `may_act` is asked before each write (client.py). Only this process's own
monotonic clock is trusted: the renewal of another holder counts from when it was seen here, an own
one from before the request was sent. The lease is over for the holder (`renew_seconds`) before it
is for everybody else (`duration_seconds`), so two never act at once.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from concertina_operator.cluster import paths
from concertina_operator.cluster.client import Api, ApiError, Conflict, NotFound

DURATION_SECONDS: Final = 12
RENEW_SECONDS: Final = 8.0
RETRY_SECONDS: Final = 2.0

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
    duration = spec.get("leaseDurationSeconds") or DURATION_SECONDS
    return holder in ("", identity) or now - sighting.at >= duration


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
        self._held_until = float("-inf")
        self._document: dict[str, Any] = {}

    def may_act(self) -> bool:
        """Whether this process surely leads now."""
        return self._clock() < self._held_until

    async def acquire(self) -> None:
        """Waits until this process leads, however long the API server is away."""
        while True:
            if await self._tried():
                break
            await asyncio.sleep(RETRY_SECONDS * (0.8 + 0.4 * random.random()))
        _log.info("%s leads", self._identity)

    async def keep(self) -> None:
        """Renews the lease; returns when it is lost."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            if await self._tried() is False or not self.may_act():
                self._held_until = float("-inf")
                return

    async def release(self) -> None:
        """Gives the lease up, so that another replica need not wait for its end."""
        if not self.may_act():
            return
        self._held_until = float("-inf")
        spec = {**self._document["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                await self._api.call("PUT", self._path, body={**self._document, "spec": spec})
        except (ApiError, TimeoutError) as error:
            _log.info("the lease was not given up, it will run out: %s", error)

    @property
    def _path(self) -> str:
        return paths.leases(self._namespace, self._name)

    async def _tried(self) -> bool | None:
        """Whether the lease is held now; None when that cannot be said yet."""
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                return await self._try()
        except (ApiError, TimeoutError) as error:
            _log.warning("the lease cannot be read or written: %r", error)
            return None

    async def _try(self) -> bool | None:
        asked_at = self._clock()
        try:
            lease = await self._api.call("GET", self._path)
        except NotFound:
            lease = None
        spec = lease["spec"] if lease is not None else {}
        self._sighting = sighted(spec, self._sighting, now=self._clock())
        if not is_free(spec, self._sighting, identity=self._identity, now=self._clock()):
            return False
        claim = claimed(spec, identity=self._identity, moment=_micro_time(datetime.now(UTC)))
        try:
            if lease is None:
                document = {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self._name, "namespace": self._namespace},
                    "spec": claim,
                }
                path = paths.leases(self._namespace)
                self._document = await self._api.call("POST", path, body=document)
            else:
                # It carries the resourceVersion that was read: one candidate wins.
                self._document = await self._api.call(
                    "PUT", self._path, body={**lease, "spec": claim}
                )
        except Conflict:
            return None
        self._held_until = asked_at + RENEW_SECONDS
        return True


def _micro_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
