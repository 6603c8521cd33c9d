"""Messages between real processes: they arrive, and a broken connection ends the waiting."""

import os
import signal
import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore

from concertina_trainer.rounds import sockets
from concertina_trainer.rounds.transport import is_broken
from concertina_trainer.sharding.messages import deliver
from tests import worlds

LARGE = 60_000_000
"""Elements; 240 MB take a while."""
PATIENCE = timedelta(minutes=10)
"""Of the group; a wait that only this ends fails the test."""


def swapped(count):
    """Each sends two tensors to each of its peers: itself and the peer in figures."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    peers = [peer for peer in range(world_size) if peer != rank]
    found = {(peer, n): torch.empty(count) for peer in peers for n in range(2)}
    messages = []
    for peer in peers:
        for n in range(2):
            sent = torch.full((count,), 100.0 * n + 10 * rank + peer)
            messages.append(dist.P2POp(dist.isend, sent, peer))
            messages.append(dist.P2POp(dist.irecv, found[peer, n], peer))
    deliver(messages)
    return all(
        bool((rows == 100.0 * n + 10 * peer + rank).all()) for (peer, n), rows in found.items()
    )


@pytest.mark.parametrize("count", [1, 1_000_000], ids=["small", "large"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_tensors_arrive_from_all_and_at_all(world_size, count):
    assert worlds.run(swapped, world_size, count) == [True] * world_size


def passed_on():
    """A line: each rank only sends to the next one, and only receives from the one before."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    row = torch.full((3,), float(rank))
    messages = []
    if rank + 1 < world_size:
        messages.append(dist.P2POp(dist.isend, row.clone(), rank + 1))
    if rank:
        messages.append(dist.P2POp(dist.irecv, row, rank - 1))
    deliver(messages)
    return row.tolist()


def test_who_only_sends_and_who_only_receives_end_too():
    assert worlds.run(passed_on, 3) == [[0.0] * 3, [0.0] * 3, [1.0] * 3]


def broken(port, rank, ops, shut_down):
    """Rank 1 falls silent in the middle of a tensor; rank 0 ends its own connections or not."""
    store = TCPStore("127.0.0.1", port, is_master=False)
    before = sockets.connections()
    dist.init_process_group(
        "gloo", store=PrefixStore("group/", store), rank=rank, world_size=2, timeout=PATIENCE
    )
    opened = sockets.connections() - before
    sent, found = torch.ones(LARGE), torch.zeros(LARGE)
    store.set(f"pid/{rank}", str(os.getpid()))
    silent = int(store.get("pid/1"))
    mine = ops if rank == 0 else [OPPOSITE[op] for op in ops]
    if mine[-1] is dist.irecv:
        watch = threading.Thread(target=silence, args=(silent, found, store), daemon=True)
        watch.start()
    if rank == 0 and shut_down:
        threading.Thread(target=end_connections, args=(port, opened), daemon=True).start()
    tensors = {dist.isend: sent, dist.irecv: found}
    try:
        deliver([dist.P2POp(op, tensors[op], 1 - rank) for op in mine])
        ended = "delivered"
    except RuntimeError as error:
        ended = "broken" if is_broken(error) else repr(error)
    store.set(f"ended/{rank}", ended)
    os._exit(0)  # a group with a dead member is not taken down


OPPOSITE = {dist.isend: dist.irecv, dist.irecv: dist.isend}


def silence(process, found, store):
    """Stop the process as soon as the beginning of the tensor is there."""
    while not found[0]:
        pass
    store.set("silent", "partly" if not found[-1] else "too late")
    os.kill(process, signal.SIGSTOP)


def end_connections(port, opened):
    store = TCPStore("127.0.0.1", port, is_master=False)  # one that waits keeps others from it
    store.wait(["silent"], PATIENCE)
    sockets.shut_down(opened)


@pytest.mark.parametrize("shut_down", [False, True], ids=["killed", "shut down here"])
@pytest.mark.parametrize(
    "ops",
    [
        pytest.param([dist.isend], id="sending"),
        pytest.param([dist.irecv], id="receiving"),
        pytest.param([dist.isend, dist.irecv], id="both"),
    ],
)
def test_a_connection_that_ends_in_the_middle_of_a_tensor_ends_the_waiting(ops, shut_down):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [worlds.spawn(broken, store.port, rank, ops, shut_down) for rank in range(2)]
    store.wait(["silent"], timedelta(seconds=100))
    if not shut_down:
        os.kill(ranks[1].pid, signal.SIGKILL)
    try:
        ranks[0].join(100)
        assert ranks[0].exitcode == 0
        assert store.get("silent") == b"partly"
        assert store.get("ended/0") == b"broken"
    finally:
        for rank in ranks:
            rank.kill()
