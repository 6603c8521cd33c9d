"""Process groups of a round: open, close with all alive, break off when a peer is dead.

One transport for gloo, one for NCCL, a few functions each. A round has three groups: the tensor
plane (torch's default group, of the transport's backend) carries gradients and rows; the control
plane is always gloo on the CPU, so that agreement survives an abort of the other; and snapshots
travel over gloo in a group of their own, because a thread uses it while the others are in use.
"""

import contextlib
import gc
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from concertina_trainer.rounds import sockets

OPEN_TIMEOUT = timedelta(seconds=20)
"""Everyone has greeted before groups are opened, so only a death keeps anybody waiting."""
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Backstop only: a dead peer is noticed by its closed sockets or by a newer membership."""
_BROKEN_WORDS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")


@dataclass(frozen=True, slots=True)
class Groups:
    """The open groups of a round."""

    rank: int
    world_size: int
    control: dist.ProcessGroup
    mesh: DeviceMesh
    snapshot: dist.ProcessGroup | None = None
    """For the thread that sends snapshots; None in a world of one."""
    connections: frozenset[sockets.Connection] = frozenset()
    """Those that were opened for the collectives of gloo on both planes."""
    num_needed: int = 0
    """How many of them must be there: others may have been opened in the same moment."""

    def is_cut(self) -> bool:
        """Whether a connection to a peer has ended."""
        return sockets.num_left(self.connections) < self.num_needed


class Transport(Protocol):
    """How the groups of a round are opened and ended."""

    device: torch.device

    def open(self, store: Store, *, rank: int, world_size: int) -> Groups:
        """Open all groups; blocks until all ranks have come. `store` must be fresh."""

    def close(self) -> None:
        """End the groups while every member is alive."""

    def break_off(self) -> None:
        """End whatever this process waits for now; callable from another thread."""

    def break_off_snapshots(self) -> None:
        """End whatever the snapshots' group waits for; the others go on."""

    def reopen_snapshots(self) -> dist.ProcessGroup:
        """A fresh group for snapshots after one broke; blocks until all ranks have come."""

    def recorded(self) -> contextlib.AbstractContextManager[None]:
        """Connections that are made inside end with `break_off`, also while they are made."""


def is_broken(error: BaseException) -> bool:
    """Whether an exception says that a group broke, rather than that code is wrong."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _BROKEN_WORDS)


class GlooTransport:
    """Groups over TCP on the CPU."""

    backend = "gloo"

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self._lock = threading.Lock()
        self._before: frozenset[sockets.Connection] | None = None
        self._opened: frozenset[sockets.Connection] = frozenset()
        self._num_peers = 0
        """How many are called or call while groups are opened; then 0."""
        self._called: frozenset[sockets.Connection] = frozenset()
        """Listeners that wait for no peer: those from before, and those that were called."""
        self._snapshots: dist.ProcessGroup | None = None
        self._for_snapshots: frozenset[sockets.Connection] = frozenset()

    def open(self, store: Store, *, rank: int, world_size: int) -> Groups:
        """See Transport."""
        with self._calling(world_size):
            before = sockets.connections()
            try:
                dist.init_process_group(
                    self.backend,
                    store=PrefixStore("tensor/", store),
                    rank=rank,
                    world_size=world_size,
                    timeout=OPEN_TIMEOUT,
                    device_id=self._device_id(),
                )
            except BaseException:
                _number_anew()
                raise
            if self.backend != "gloo":
                before = sockets.connections()
            control = dist.new_group(backend="gloo", timeout=OPEN_TIMEOUT)
            connections = sockets.connections() - before
            mesh = init_device_mesh(self.device.type, (world_size,))
            snapshot = self._open_snapshots() if world_size > 1 else None
        assert isinstance(control, dist.ProcessGroup)
        for group in (None, control):
            dist.set_timeout(COLLECTIVE_TIMEOUT, group)
        num_planes = 2 if self.backend == "gloo" else 1
        num_needed = min(num_planes * (world_size - 1), len(connections))
        return Groups(rank, world_size, control, mesh, snapshot, connections, num_needed)

    def close(self) -> None:
        """See Transport. Idle groups end at once; callers agree beforehand that all is done."""
        if dist.is_initialized():
            dist.destroy_process_group()
        self._forget()

    def break_off(self) -> None:
        """See Transport."""
        with self._lock:
            opened, num_peers = self._opened, self._num_peers
            if self._before is not None:
                opened |= sockets.connections() - self._before
            called = sockets.listeners() - self._called if num_peers else frozenset()
            self._called |= called
        sockets.shut_down(opened)
        for listener in called:
            sockets.call_and_hang_up(listener, num_peers=num_peers)

    def break_off_snapshots(self) -> None:
        """See Transport."""
        sockets.shut_down(self._for_snapshots)

    def reopen_snapshots(self) -> dist.ProcessGroup:
        """See Transport. Blocks for OPEN_TIMEOUT at most."""
        if self._snapshots is not None:
            dist.destroy_process_group(self._snapshots)
            self._snapshots = None
        with self._calling(dist.get_world_size()):
            return self._open_snapshots()

    def _open_snapshots(self) -> dist.ProcessGroup:
        before = sockets.connections()
        group = dist.new_group(backend="gloo", timeout=OPEN_TIMEOUT)
        assert isinstance(group, dist.ProcessGroup)
        dist.set_timeout(COLLECTIVE_TIMEOUT, group)
        self._snapshots, self._for_snapshots = group, sockets.connections() - before
        return group

    def _device_id(self) -> torch.device | None:
        return None

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """See Transport."""
        with self._lock:
            self._before = sockets.connections()
        try:
            yield
        finally:
            with self._lock:
                self._opened |= sockets.connections() - self._before
                self._before = None

    @contextlib.contextmanager
    def _calling(self, num_peers: int) -> Iterator[None]:
        """Record, and let `break_off` end the waiting for calls of peers, too."""
        with self.recorded():
            with self._lock:
                self._called, self._num_peers = sockets.listeners(), num_peers
            try:
                yield
            finally:
                with self._lock:
                    self._num_peers = 0

    def _forget(self) -> None:
        # FSDP modules are reference cycles that keep groups, sockets and threads alive.
        gc.collect()
        with self._lock:
            self._opened &= sockets.connections()
        self._snapshots, self._for_snapshots = None, frozenset()


class NcclTransport(GlooTransport):
    """Groups over NCCL; agreement stays on gloo."""

    backend = "nccl"

    def close(self) -> None:
        """See Transport."""
        torch.cuda.synchronize(self.device)
        super().close()

    def break_off(self) -> None:
        """See Transport. Collectives in the queue end by the abort, those on gloo by the sockets."""
        if dist.is_initialized():
            dist.distributed_c10d._get_default_group().abort()
        super().break_off()

    def _device_id(self) -> torch.device | None:
        return self.device


def _number_anew() -> None:
    """Make torch number the next group 0, as it does whenever a default group ends.

    The numbers are parts of the names under which ranks meet. A group that failed to open has used
    one up, on those ranks only that came so far: they would never meet the others again.
    """
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    dist.destroy_process_group()


def transport_for(device: torch.device) -> Transport:
    """The transport of a device."""
    return NcclTransport(device) if device.type == "cuda" else GlooTransport(device)
