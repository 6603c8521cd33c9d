import os
import signal
import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, TCPStore

from concertina_trainer.rounds import transport
from tests import worlds


def open_after_a_failure(port):
    rank = dist.get_rank()
    dist.barrier()
    dist.destroy_process_group()
    groups = transport.GlooTransport()
    if rank == 1:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transport, "OPEN_TIMEOUT", timedelta(seconds=1))
            with pytest.raises(dist.DistError):
                groups.open(HashStore(), rank=1, world_size=2)  # nobody else is there
    groups.close()
    store = PrefixStore("next", TCPStore("127.0.0.1", port, is_master=False))
    opened = groups.open(store, rank=rank, world_size=2)
    total = torch.ones(1)
    dist.all_reduce(total, group=opened.control)
    groups.close()
    return total.item()


def test_a_round_opens_whatever_became_of_the_one_before_on_one_rank_alone():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    assert worlds.run(open_after_a_failure, 2, store.port) == [2.0, 2.0]


ADDRESS_OF_RANK_0 = "tensor//0//cpu//0/0"
WORLD_SIZE = 5
"""Of two ranks one calls the other; the more there are, the surer it is that some wait for rank 0."""


def die_once_known(port):
    """SIGKILL as soon as others may read where this rank can be called, and may wait for its call."""
    store = PrefixStore("round/", TCPStore("127.0.0.1", port, is_master=False))
    store.wait([ADDRESS_OF_RANK_0])
    os.kill(os.getpid(), signal.SIGKILL)


def open_with_a_dying_peer(rank, port):
    news = PrefixStore("round/", TCPStore("127.0.0.1", port, is_master=False))
    groups = transport.GlooTransport()
    with groups.recorded():
        store = PrefixStore("round/", TCPStore("127.0.0.1", port, is_master=False))
    if rank == 0:
        threading.Thread(target=die_once_known, args=(port,)).start()
    ended = threading.Event()

    def watch():
        news.wait(["gone"])
        while not ended.wait(0.1):  # as the watch does when a newer round leaves somebody out
            groups.break_off()

    threading.Thread(target=watch, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport, "OPEN_TIMEOUT", timedelta(minutes=10))
        with pytest.raises(RuntimeError) as broken:
            dist.barrier(group=groups.open(store, rank=rank, world_size=WORLD_SIZE).control)
    ended.set()
    assert transport.is_broken(broken.value)


def test_nobody_waits_for_the_call_of_a_peer_that_died_while_groups_were_opened():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [worlds.spawn(open_with_a_dying_peer, rank, store.port) for rank in range(WORLD_SIZE)]
    ranks[0].join(60)
    assert ranks[0].exitcode == -signal.SIGKILL
    PrefixStore("round/", store).set("gone", "")
    for survivor in ranks[1:]:
        survivor.join(60)
    assert [survivor.exitcode for survivor in ranks[1:]] == [0] * 4
