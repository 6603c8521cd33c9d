"""Snapshots between real processes: what each holds afterwards, and ends at any moment."""

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore

from concertina_api.v1alpha1 import SnapshotMode
from concertina_api.v1alpha1 import Snapshots as Policy
from concertina_trainer.rounds import sockets
from concertina_trainer.rounds.agreement import State
from concertina_trainer.rounds.control import FAILED, NONE, Control, Flags
from concertina_trainer.rounds.phases import ignore
from concertina_trainer.rounds.transport import GlooTransport
from concertina_trainer.sharding.layout import row_range
from concertina_trainer.sharding.state import Entry, Kind
from concertina_trainer.snapshot.sets import SnapshotSet
from concertina_trainer.snapshot.snapshots import Snapshots
from tests import worlds
from tests.concertina_trainer.sharding.test_exchange import part

POLICY = Policy(every_steps=1)


def in_round(body, port, *args):
    """Run `body(groups, transport, *args)` in a round of its own over all ranks."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    dist.barrier()
    dist.destroy_process_group()
    transport = GlooTransport()
    store = PrefixStore("round/", TCPStore("127.0.0.1", port, is_master=False))
    groups = transport.open(store, rank=rank, world_size=world_size)
    try:
        return body(groups, transport, *args)
    finally:
        transport.close()


def run(body, world_size, *args):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return worlds.run(in_round, world_size, body, store.port, *args)


def begun(groups, transport, *, workers_per_pod=1, policy=POLICY, holding=None):
    snapshots = Snapshots(policy, workers_per_pod=workers_per_pod)
    holding = holding or part(groups.world_size, groups.rank)
    enter(snapshots, groups, transport, holding)
    return snapshots, holding


def enter(snapshots, groups, transport, holding, *, others_bytes=0):
    snapshots.enter(
        groups,
        holding,
        break_off=transport.break_off_snapshots,
        reopen=transport.reopen_snapshots,
        reached=ignore,
        others_bytes=lambda _holding: others_bytes,
    )


def agree(groups, snapshots, wanted):
    """Beats until all hold the snapshot, as the steps of a round have them."""
    control = Control(groups)
    deadline = time.monotonic() + 60
    while (held := control.collect().held) not in wanted:
        assert time.monotonic() < deadline
        control.beat(Flags(round=1, held=snapshots.held))
    return held


def take_one(groups, transport, workers_per_pod):
    snapshots, holding = begun(groups, transport, workers_per_pod=workers_per_pod)
    assert (snapshots.facts.off, snapshots.facts.step) == ("", None)
    snapshots.before_update()
    for tensor in holding.tensors.values():
        tensor.zero_()  # the next step changes parameters before the rows have travelled
    agree(groups, snapshots, [holding.step])
    snapshots.after_step(holding.step, seconds=0.1, slots=1)
    held = {}
    for shard, copied in snapshots.offers():
        want = part(groups.world_size, shard.rank).tensors
        assert list(shard.tensors) == list(want)
        for name, rows in want.items():
            assert shard.tensors[name].dtype == rows.dtype
            assert torch.equal(shard.tensors[name], rows), name
        held[shard.rank] = copied
    facts = snapshots.facts
    snapshots.leave()
    return held, facts.step, snapshots.taken


@pytest.mark.parametrize(("world_size", "workers_per_pod"), [(2, 1), (3, 1), (4, 1), (4, 2)])
def test_each_holds_its_own_part_and_its_charges_bitwise(world_size, workers_per_pod):
    found = run(take_one, world_size, workers_per_pod)

    for rank, (held, step, taken) in enumerate(found):
        charge = (rank - workers_per_pod) % world_size
        assert held == {rank: False, charge: True}
        assert (step, taken) == (5, 1)


def connections_after_a_round(port):
    """How many connections of a round are open in it and after its end."""
    rank, transport = dist.get_rank(), GlooTransport()
    dist.barrier()
    dist.destroy_process_group()
    store = PrefixStore("round/", TCPStore("127.0.0.1", port, is_master=False))
    groups = transport.open(store, rank=rank, world_size=2)
    snapshots, holding = begun(groups, transport)
    agree(groups, snapshots, [holding.step])
    connections = groups.connections
    within = sockets.num_left(connections)
    snapshots.leave()
    dist.barrier(group=groups.control)
    del groups
    transport.close()
    return within, sockets.num_left(connections), snapshots.taken


def test_after_a_round_snapshots_keep_none_of_its_connections():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    found = worlds.run(connections_after_a_round, 2, store.port)
    assert [counts[:2] for counts in found] == [(2, 0), (2, 0)]


def go_on_before_the_other(groups, transport, port):
    """Rank 1 begins its snapshot only once rank 0 has gone on from its own."""
    store = TCPStore("127.0.0.1", port, is_master=False)
    snapshots, holding = begun(groups, transport)
    agree(groups, snapshots, [5])
    snapshots.after_step(5, seconds=0.1, slots=1)
    if groups.rank == 1:
        store.wait(["rank 0 went on"], timedelta(seconds=20))
    snapshots.take(replace(holding, step=6))
    snapshots.before_update()
    held = snapshots.held
    if groups.rank == 0:
        store.set("rank 0 went on", "")
    agreed = agree(groups, snapshots, [6, FAILED])
    snapshots.leave()
    return held, agreed


def test_steps_go_on_before_the_neighbours_part_is_there():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    (held, agreed), _ = run(go_on_before_the_other, 2, store.port)
    assert (held, agreed) == (5, 6)


def leave_soon(groups, transport, waits):
    """The thread is wherever it is: copying, sending, or done."""
    snapshots, holding = begun(groups, transport)
    if waits:
        snapshots.before_update()
    snapshots.leave()
    return holding.rank in [shard.rank for shard, copied in snapshots.offers() if not copied]


@pytest.mark.parametrize("waits", [False, True])
def test_a_round_that_ends_breaks_a_snapshot_off_wherever_it_is(waits):
    for _ in range(3):
        found = run(leave_soon, 3, waits)
        assert not waits or found == [True] * 3


def fill_two(groups, transport):
    """A second snapshot is on its way: the first stays until the second counts."""
    snapshots, holding = begun(groups, transport)
    agree(groups, snapshots, [5])
    snapshots.after_step(5, seconds=0.1, slots=1)
    snapshots.take(replace(holding, step=6))
    steps = [sorted({shard.step for shard, _ in snapshots.offers()} | {6})]
    steps.append(snapshots.facts.step)
    agree(groups, snapshots, [6])
    snapshots.after_step(6, seconds=0.1, slots=1)
    steps.append(snapshots.facts.step)
    snapshots.take(replace(holding, step=7))
    steps.append(sorted({shard.step for shard, _ in snapshots.offers()} | {7}))
    snapshots.leave()
    return steps


def test_the_newest_that_counts_is_never_overwritten():
    assert run(fill_two, 2) == [[[5, 6], 5, 6, [6, 7]]] * 2


def fail_on_one(groups, transport):
    snapshots, holding = begun(groups, transport)
    agree(groups, snapshots, [5])
    snapshots.after_step(5, seconds=0.1, slots=1)
    if groups.rank == 1:
        transport.break_off_snapshots()
    snapshots.take(replace(holding, step=6))
    held = agree(groups, snapshots, [FAILED])
    snapshots.after_step(held, seconds=0.1, slots=1)
    total = torch.ones(1)
    dist.all_reduce(total)  # the other groups go on
    failed = snapshots.facts
    is_due = snapshots.is_due(1000)
    snapshots.take(replace(holding, step=1001))
    agree(groups, snapshots, [1001])
    snapshots.after_step(1001, seconds=0.1, slots=1)
    facts = snapshots.facts
    snapshots.leave()
    told = failed.step, failed.off.startswith("a snapshot failed"), failed.every_steps
    return told, is_due, total.item(), (facts.step, facts.off), snapshots.failures


def test_a_snapshot_that_fails_is_told_the_one_before_stays_and_a_later_one_counts():
    want = (5, True, 0), False, 2.0, (1001, ""), 1
    assert run(fail_on_one, 2) == [want] * 2


def without_memory(groups, transport):
    """One worker gets no memory for the second set."""
    snapshots, holding = begun(groups, transport)
    agree(groups, snapshots, [5])
    snapshots.after_step(5, seconds=0.1, slots=1)
    with pytest.MonkeyPatch.context() as patch:
        if groups.rank == 1:
            patch.setattr(SnapshotSet, "begin", _refuse)
        snapshots.take(replace(holding, step=6))
    snapshots.after_step(agree(groups, snapshots, [FAILED]), seconds=0.1, slots=1)
    told = snapshots.facts.off
    snapshots.take(replace(holding, step=7))
    agree(groups, snapshots, [7])
    snapshots.after_step(7, seconds=0.1, slots=1)
    snapshots.leave()
    return told, snapshots.facts.step


def _refuse(*args, **options):
    raise RuntimeError("no pinned memory")


def test_a_snapshot_that_gets_no_memory_is_a_failed_one_on_all_workers():
    (there, step), (here, _) = run(without_memory, 2)
    assert there.startswith("a snapshot failed: ")
    assert here == "a snapshot failed: no pinned memory"
    assert step == 7


def fail_again_and_again(groups, transport):
    snapshots, holding = begun(groups, transport)
    agree(groups, snapshots, [5])
    snapshots.after_step(5, seconds=0.1, slots=1)
    counts = []
    with pytest.MonkeyPatch.context() as patch:
        if groups.rank == 1:
            patch.setattr(SnapshotSet, "begin", _refuse)
        for step in range(6, 18):
            snapshots.take(replace(holding, step=step))
            snapshots.after_step(agree(groups, snapshots, [FAILED]), seconds=0.1, slots=1)
            counts.append(len(list(Path("/proc/self/fd").iterdir())))
    snapshots.leave()
    return max(counts[6:]) - max(counts[:3])


def test_failures_leave_no_connections_behind():
    assert max(run(fail_again_and_again, 3)) < 6  # of nine failures and two neighbours


def grown(holding, *, rows):
    """The holding with one more tensor of so many rows of 4 KiB, without their memory."""
    name, world_size = "optimizer/state", holding.world_size
    entry = Entry(name=name, kind=Kind.SHARDED, dtype=torch.float32, shape=(rows, 1024))
    start, stop = row_range(rows, world_size=world_size, rank=holding.rank)
    tensors = {**holding.tensors, name: torch.zeros(1, 1024).expand(stop - start, 1024)}
    return replace(holding, step=6, entries={**holding.entries, name: entry}, tensors=tensors)


def outgrow(groups, transport, rows):
    """The optimizer's state comes with the first step, after the first snapshot."""
    snapshots, holding = begun(groups, transport)
    agree(groups, snapshots, [5])
    snapshots.after_step(5, seconds=0.1, slots=1)
    before = snapshots.facts
    snapshots.take(grown(holding, rows=rows))
    if not snapshots.off:
        snapshots.before_update()
        agree(groups, snapshots, [6])
        snapshots.after_step(6, seconds=0.1, slots=1)
    facts = snapshots.facts
    snapshots.leave()
    return before.fits, facts.step, facts.off[:15], facts.fits, facts.num_bytes > before.num_bytes


@pytest.mark.parametrize(
    ("rows", "want"),
    [
        pytest.param(64, (True, 6, "", True, True), id="there is room"),
        pytest.param(2**36, (True, 5, "snapshots need ", False, False), id="there is none"),
    ],
)
def test_a_state_that_grows_is_measured_anew(rows, want):
    assert run(outgrow, 2, rows) == [want] * 2


def enter_without(groups, transport):
    """A round with snapshots, and one in which they do not fit any more."""
    snapshots, holding = begun(groups, transport)
    agree(groups, snapshots, [5])
    snapshots.after_step(5, seconds=0.1, slots=1)
    snapshots.leave()
    taken = snapshots.facts.num_bytes
    snapshots.keep(State(5, holding.round, holding.world_size))
    large = grown(holding, rows=2**36)
    enter(snapshots, groups, transport, large)
    kept = snapshots.facts.num_bytes, snapshots.facts.step
    snapshots.leave()
    snapshots.keep(None)
    enter(snapshots, groups, transport, large)
    return taken > 0, kept == (taken, 5), snapshots.facts.num_bytes


def test_memory_that_holds_no_snapshot_is_given_back_when_none_are_taken():
    assert run(enter_without, 2) == [(True, True, 0)] * 2


def enter_beside(groups, transport, others_bytes):
    snapshots = Snapshots(POLICY, workers_per_pod=1)
    holding = part(groups.world_size, groups.rank)
    enter(snapshots, groups, transport, holding, others_bytes=others_bytes)
    off = snapshots.off
    snapshots.leave()
    return off


def test_what_checkpoints_will_take_is_not_there_for_snapshots():
    for why in run(enter_beside, 2, 2**50):
        assert why.startswith("snapshots need ")
        assert why.endswith(f"beside {2**20:.2f} GiB for checkpoints")


def wait_for_copies(groups, transport):
    """Seconds that snapshots are said to take from the steps, and those that the loop saw."""
    snapshots, holding = begun(groups, transport)
    name = "model/large"
    entry = Entry(name=name, kind=Kind.SHARDED, dtype=torch.float32, shape=(2**12, 2**12))
    start, stop = row_range(2**12, world_size=groups.world_size, rank=groups.rank)
    tensors = {**holding.tensors, name: torch.ones(stop - start, 2**12)}
    holding = replace(holding, entries={**holding.entries, name: entry}, tensors=tensors)
    agree(groups, snapshots, [5])
    snapshots.after_step(5, seconds=1.0, slots=1)
    snapshots.after_step(5, seconds=1.0, slots=1)  # without a snapshot under way
    for step in (6, 7, 8):  # only the last one has its memory from before
        begin = time.perf_counter()
        snapshots.take(replace(holding, step=step))
        middle = time.perf_counter()
        snapshots.before_update()
        waited = time.perf_counter() - middle
        agree(groups, snapshots, [step])
        snapshots.after_step(step, seconds=1.0 + waited, slots=1)
    cost = snapshots.facts.cost
    snapshots.leave()
    return cost, middle - begin, waited


def test_the_wait_for_the_copy_counts_once():
    for cost, taking, waited in run(wait_for_copies, 2):
        assert 0 < cost <= taking + waited + 1e-6


def off(groups, transport, case):
    holding = part(groups.world_size, groups.rank)
    policy = Policy(mode=SnapshotMode.OFF) if case == "mode" else POLICY
    if case == "memory" and groups.rank == 1:
        name = "model/uneven"
        entry = replace(holding.entries[name], shape=(2**40, 6))
        holding = replace(holding, entries={**holding.entries, name: entry})
    workers = 2 if case == "one pod" else 1
    snapshots, _ = begun(groups, transport, workers_per_pod=workers, policy=policy, holding=holding)
    snapshots.take(holding)
    facts = snapshots.facts
    found = facts.off, facts.fits, snapshots.held, list(snapshots.offers())
    snapshots.leave()
    return found


@pytest.mark.parametrize(
    ("case", "want"),
    [
        pytest.param("mode", ["spec.snapshots.mode is Off"] * 2, id="as the manifest says"),
        pytest.param("one pod", ["there is no other pod to keep a copy"] * 2, id="one pod"),
        pytest.param(
            "memory",
            ["they do not fit into the memory of another pod", "snapshots need "],
            id="too large for one of them",
        ),
    ],
)
def test_none_are_taken_and_it_is_said_why(case, want):
    for (why, fits, held, offers), beginning in zip(run(off, 2, case), want, strict=True):
        assert why.startswith(beginning)
        assert fits is (case != "memory")
        assert (held, offers) == (NONE, [])
