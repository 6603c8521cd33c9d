from itertools import count

from torch.distributed import TCPStore

from concertina_trainer.agent.agent import bind_store
from concertina_trainer.agent.stores import RoundStores


class FakeServer:
    def __init__(self, port):
        self.port = port


def fake_stores():
    ports = count(1000)
    return RoundStores(lambda: FakeServer(next(ports)))


def test_nothing_is_bound_before_the_workers_are_warm():
    stores = fake_stores()
    assert stores.port is None
    stores.serve(1, port=1000)
    assert stores.rounds == ()

    stores.open()
    stores.open()

    assert stores.port == 1000


def test_a_store_that_a_round_uses_is_not_offered_again():
    stores = fake_stores()
    stores.open()

    stores.serve(1, port=1000)
    stores.serve(1, port=1000)  # the same membership, read again
    assert stores.port == 1001
    assert stores.rounds == (1,)

    stores.serve(2, port=1000)  # published before the new port was read
    assert stores.port == 1001
    assert stores.rounds == (1, 2)

    stores.serve(3, port=7)  # no port of ours
    assert stores.rounds == (1, 2)


def test_a_store_lives_until_its_successor_is_committed_and_the_two_newest_always():
    stores = fake_stores()
    stores.open()
    for number in (1, 2, 3, 4):
        stores.serve(number, port=stores.port)

    stores.retire(2)
    assert stores.rounds == (2, 3, 4)
    stores.retire(9)
    assert stores.rounds == (3, 4)


def test_real_stores_have_free_ports_and_end_when_they_are_dropped():
    stores = RoundStores(bind_store)
    stores.open()
    for number in (1, 2, 3):
        port = stores.port
        stores.serve(number, port=port)
        assert stores.port != port
        TCPStore("127.0.0.1", port, is_master=False).set("key", "value")
        if number == 1:
            first = port

    stores.retire(3)

    # The port of the first is free again.
    TCPStore("127.0.0.1", first, is_master=True, wait_for_workers=False)
