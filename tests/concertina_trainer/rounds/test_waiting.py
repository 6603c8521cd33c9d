import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore

from concertina_trainer.rounds import transport
from concertina_trainer.rounds.control import Control, Flags
from concertina_trainer.rounds.waiting import finish
from tests import worlds

SIZE = 32_000_000
"""Far more numbers than sockets hold, so whoever sends them is in the middle nearly always."""


def store_of(port):
    return TCPStore("127.0.0.1", port, is_master=False)


def stop_when_something_came(received):
    while received[0] == 0:
        pass
    os.kill(os.getpid(), signal.SIGSTOP)


def send_to_a_worker_that_stops(rank, port):
    groups = transport.GlooTransport()
    opened = groups.open(PrefixStore("round/", store_of(port)), rank=rank, world_size=2)
    control, ended = Control(opened), threading.Event()
    numbers = torch.full((SIZE,), 1.0 - rank)
    if rank == 1:
        threading.Thread(target=stop_when_something_came, args=(numbers,), daemon=True).start()
    else:
        watch = threading.Thread(
            target=break_off_when_told, args=(groups, port, ended), daemon=True
        )
        watch.start()
    with pytest.raises(RuntimeError) as broken:
        go_on(control, numbers, opened)
    control.drop()
    ended.set()
    assert transport.is_broken(broken.value)
    del opened, control, broken
    groups.close()  # which destructs groups that nothing refers to any more
    alone = groups.open(PrefixStore("alone/", store_of(port)), rank=0, world_size=1)
    finish(dist.all_reduce(numbers, async_op=True), alone)
    groups.close()


def go_on(control, numbers, opened):
    while True:
        control.beat(Flags(round=1))
        finish(dist.broadcast(numbers, src=0, async_op=True), opened)


def break_off_when_told(groups, port, ended):
    store_of(port).wait(["stopped"])
    while not ended.wait(0.1):  # as the watch does when a newer round leaves somebody out
        groups.break_off()


def wait_until_stopped(process):
    deadline = time.monotonic() + 60
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.05)


def test_a_tensor_on_its_way_to_a_worker_that_stopped_is_waited_for_as_long_as_its_connection():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    sender, stopped = (
        worlds.spawn(send_to_a_worker_that_stops, rank, store.port) for rank in range(2)
    )
    try:
        wait_until_stopped(stopped)
        store.set("stopped", "")
        sender.join(60)
        assert sender.exitcode == 0
    finally:
        stopped.kill()
        sender.kill()
