"""Who reaches whom; the stores, groups and collectives of a round over that.

The seams under the real transaction (rounds/transaction.py) and desk (rounds/desk.py): a store is
a dictionary that lives with an agent, a group breaks when a member's process or connection ends,
and hangs when a member is silent. A collective may end on one rank and break on another.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist

from tests.simulation.kernel import Kernel, Process

STORE_SECONDS = 30.0
OPEN_SECONDS = 20.0
LATENCY = (0.0005, 0.02)


class Network:
    """Which places are cut off from which others; a place is a pod's uid, or `api`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._cuts: dict[int, tuple[frozenset[str], frozenset[str]]] = {}
        self._number = 0
        self.watchers: list[Callable[[], None]] = []

    def cut(self, some: frozenset[str], others: frozenset[str]) -> int:
        """From now on nothing passes between the two sets of places."""
        self._number += 1
        self._cuts[self._number] = (some, others)
        return self._number

    def heal(self, number: int) -> None:
        """Undo a cut."""
        self._cuts.pop(number, None)
        self._kernel.poke()
        for watcher in self.watchers:
            watcher()

    def reaches(self, here: str, there: str) -> bool:
        """Whether packets pass."""
        return not any(
            (here in some and there in others) or (there in some and here in others)
            for some, others in self._cuts.values()
        )


class Server:
    """A store that an agent has bound."""

    def __init__(self, kernel: Kernel, place: "Place", port: int) -> None:
        self.kernel = kernel
        self.place = place
        self.port = port
        self.values: dict[str, str] = {}


@dataclass(eq=False, slots=True, kw_only=True)
class Place:
    """Where processes run: a pod's network and its agent."""

    uid: str
    agent: Process | None = None
    servers: dict[int, Server] = field(default_factory=dict)


class Client:
    """A store as a worker sees it: blocks while nobody answers, fails when the server is gone."""

    def __init__(self, server: Server, connection: "Connection", prefix: str = "") -> None:
        self.server = server
        self.connection = connection
        self.prefix = prefix

    def under(self, prefix: str) -> "Client":
        """The same store with longer keys."""
        return Client(self.server, self.connection, self.prefix + prefix)

    def set(self, key: str, value: str) -> None:
        self._reach()
        self.server.values[self.prefix + key] = value
        self.server.kernel.poke()

    def get(self, key: str) -> bytes:
        self._reach()
        return self.server.values[self.prefix + key].encode()

    def check(self, keys: list[str]) -> bool:
        self._reach()
        return all(self.prefix + key in self.server.values for key in keys)

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        self._reach()
        found = self.server.values.get(self.prefix + key)
        if (found or "") == expected:
            self.server.values[self.prefix + key] = found = value
            self.server.kernel.poke()
        return (found or expected).encode()

    def _reach(self) -> None:
        self.connection.reach(self.server)


class Connection:
    """One worker's connections of a round: they end together, by itself or from outside."""

    def __init__(self, kernel: Kernel, network: Network, worker: Any) -> None:
        self.kernel = kernel
        self.network = network
        self.worker = worker
        self.broken = False

    def reach(self, server: Server) -> None:
        """A request and its answer; raises DistError when there is none."""
        kernel, process = self.kernel, self.worker.process
        if process.dead:
            return
        end = kernel.now + STORE_SECONDS
        while True:
            agent, place = server.place.agent, server.place
            is_gone = place.servers.get(server.port) is not server
            if self.broken or is_gone or agent is None or agent.dead or kernel.now >= end:
                raise dist.DistNetworkError("the connection to the round's store has ended")
            if not agent.frozen and self.network.reaches(self.worker.place.uid, place.uid):
                return
            process.pause(min(1.0, end - kernel.now))


class Group:
    """A process group: its members come by rank."""

    def __init__(self, key: tuple[int, str], world_size: int) -> None:
        self.key = key
        self.world_size = world_size
        self.members: dict[int, Transport] = {}
        self.ended: set[int] = set()
        """Ranks whose connections have ended."""
        self.snapshots_ended: set[int] = set()
        """Ranks whose connections for snapshots have ended."""
        self.told: dict[str, dict[int, Any]] = {}

    def has_lost(self, rank: int) -> bool:
        """Whether others notice that a rank is no longer there: silence is not noticed."""
        if rank in self.ended:
            return True
        worker = self.members[rank].worker
        return worker.process.dead and not worker.agent.pod.node_is_dead


@dataclass(slots=True)
class Groups:
    """What the product knows of an open group (rounds.transport.Groups)."""

    rank: int
    world_size: int
    control: Group
    mesh: None = None
    snapshot: Group | None = None


class Transport:
    """One worker's transport (rounds.transport.Transport)."""

    device = "cpu"

    def __init__(self, kernel: Kernel, network: Network, worker: Any, groups: dict) -> None:
        self._kernel = kernel
        self._network = network
        self._groups = groups
        self.worker = worker
        self._connection = Connection(kernel, network, worker)
        self.group: Group | None = None
        self.rank = 0

    @property
    def is_broken(self) -> bool:
        """Whether the present connections were broken off."""
        return self._connection.broken

    def connect(self, server: Server) -> Client:
        """A client of an agent's store."""
        client = Client(server, self._connection)
        client.check([])
        return client

    def open(self, store: Client, *, rank: int, world_size: int) -> Groups:
        """Wait for the others at a store; everyone has greeted before."""
        key = (id(store.server), store.prefix)
        group = self._groups.setdefault(key, Group(key, world_size))
        assert group.world_size == world_size
        group.members[rank] = self
        self.group, self.rank = group, rank
        self._kernel.poke()
        end = self._kernel.now + OPEN_SECONDS
        while len(group.members) < world_size or not self._reaches_all(group):
            if self._connection.broken or self._kernel.now >= end:
                raise RuntimeError("gloo: a peer did not come")
            self._kernel.poll()
        return Groups(rank, world_size, group, None, group if world_size > 1 else None)

    def tell(self, group: Group, rank: int, what: str, value: Any) -> None:
        """Start a collective: my contribution is on its way."""
        group.told.setdefault(what, {})[rank] = value
        for member in group.members.values():
            if member is not self:
                member.worker.process.wake(self._kernel.some(*LATENCY))

    def hear(self, group: Group, rank: int, what: str) -> dict[int, Any]:
        """Wait for the contributions of all. Raises RuntimeError as gloo does."""
        told = group.told[what]
        while True:
            if self._connection.broken or rank in group.ended:
                raise RuntimeError("gloo: connection closed")
            missing = [other for other in range(group.world_size) if other not in told]
            if not missing and self._reaches_all(group):
                # The last packets are under way still, and may not come.
                self.worker.process.sleep(self._kernel.some(*LATENCY))
                if self._connection.broken or rank in group.ended:
                    raise RuntimeError("gloo: connection closed")
                lost = [other for other in group.members if group.has_lost(other)]
                if lost and self._kernel.random.random() < 0.5:
                    raise RuntimeError("gloo: connection closed by peer")
                return told
            if any(group.has_lost(other) for other in missing):
                raise RuntimeError("gloo: connection closed by peer")
            self._kernel.poll()

    def close(self) -> None:
        """My connections end; who waits for me sees that."""
        if self.group is not None:
            self.group.ended.add(self.rank)
            self.group = None
        self._connection = Connection(self._kernel, self._network, self.worker)
        if not self.worker.process.dead:
            self._kernel.poke()

    def break_off(self) -> None:
        """Whatever waits on my connections raises."""
        self._connection.broken = True
        if self.group is not None:
            self.group.ended.add(self.rank)
        if not self.worker.process.dead:
            self.worker.process.wake()
            self._kernel.poke()

    def break_off_snapshots(self) -> None:
        """See rounds.transport.Transport."""
        if self.group is not None:
            self.group.snapshots_ended.add(self.rank)

    def reopen_snapshots(self) -> Group:
        """See rounds.transport.Transport."""
        assert self.group is not None
        self.group.snapshots_ended.discard(self.rank)
        return self.group

    def recorded(self) -> "Transport":
        """See rounds.transport.Transport."""
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *raised: object) -> None:
        pass

    def _reaches_all(self, group: Group) -> bool:
        mine = self.worker.place.uid
        return all(
            self._network.reaches(mine, member.worker.place.uid)
            for member in group.members.values()
        )
