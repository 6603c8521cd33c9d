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
