"""Where the product meets the simulation: names of its modules that stand for the world outside.

`installed(kernel, ...)` replaces them while a schedule runs: stores, groups, the exchange of
tensors, pauses. Nothing that decides is replaced. A name that is gone fails at once.
"""

import contextlib
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from concertina_api.errors import RoundFailed
from concertina_trainer.loop import rounds
from concertina_trainer.rounds import desk, transaction
from concertina_trainer.snapshot import snapshots
from tests.simulation.keeper import shards_of
from tests.simulation.snapshots import SnapshotSet, Transfer
from tests.simulation.step import Control
from tests.simulation.watch import SimWatch

if TYPE_CHECKING:
    from tests.simulation.world import World


@contextlib.contextmanager
def installed(world: "World") -> Iterator[None]:
    """The product's processes live in this world."""
    kernel = world.kernel

    def connect(host: str, port: int, **_: Any) -> Any:
        worker, pod = kernel.running.owner, world.by_uid.get(host)
        end = kernel.now + 30.0
        while pod is None or port not in pod.place.servers:
            if kernel.now >= end or worker.transport.is_broken:
                raise RoundFailed(f"the round's store at {host}:{port} does not answer")
            kernel.poll()
        return worker.transport.connect(pod.place.servers[port])

    def exchange(_: Any, mine: Any, *, route: Any, group_rank: int, device: Any) -> Any:
        transport = kernel.running.owner.transport
        group = transport.group
        transport.tell(group, group_rank, "exchange", shards_of(mine))
        told = transport.hear(group, group_rank, "exchange")
        number = kernel.running.owner.keeper.number
        shards = [told[holder][rank] for rank, holder in enumerate(route.holders)]
        state = world.judge.exchanged(shards, number=number)
        return {"state": state} if group_rank in route.receivers else {}

    def barrier(group: Any, async_op: bool) -> None:
        transport = kernel.running.owner.transport
        transport.tell(group, transport.rank, "barrier", None)
        transport.hear(group, transport.rank, "barrier")

    def transfer(target: Any, _: Any, *, group: Any, ring: Any, reached: Any) -> Transfer:
        worker = kernel.running.owner
        worker.transfer = Transfer(worker, target, group=group, ring=ring)
        return worker.transfer

    no_torch = SimpleNamespace(all_reduce=lambda *_, **__: None, ReduceOp=SimpleNamespace(MIN=0))
    seams = [
        (snapshots, "dist", no_torch),
        (snapshots, "host_memory", lambda: None),
        (snapshots, "shard_bytes", lambda *_, **__: 0),
        (snapshots, "shortage", lambda *_, **__: ""),
        (snapshots, "SnapshotSet", SnapshotSet),
        (snapshots, "Transfer", transfer),
        (desk, "PrefixStore", lambda prefix, store: store.under(prefix)),
        (desk, "time", SimpleNamespace(sleep=lambda _: kernel.poll())),
        (transaction, "PrefixStore", lambda prefix, store: store.under(prefix)),
        (transaction, "connect", connect),
        (transaction, "exchange", exchange),
        (transaction, "dist", SimpleNamespace(barrier=barrier)),
        (rounds, "transport_for", lambda worker: worker.transport),
        (rounds, "Watch", SimWatch),
        (rounds, "heartbeat_file", lambda *_: None),
        (rounds, "World", SimpleNamespace),
        (rounds, "Control", lambda groups: Control(groups.control, kernel.running.owner)),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in seams]
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        for module, name, stand_in in seams:
            setattr(module, name, stand_in)
        yield
    finally:
        for module, name, original in before:
            setattr(module, name, original)
        logging.disable(level)
