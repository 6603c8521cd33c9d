import torch
import torch.distributed as dist

from concertina_trainer.sharding.exchange import Route, exchange
from concertina_trainer.sharding.layout import overlaps, row_range
from concertina_trainer.sharding.state import Entry, Holding, Kind
from tests import worlds

SHAPES = {
    "model/uneven": ((515, 6), torch.float32, Kind.SHARDED),
    "model/fewer_rows_than_ranks": ((2, 3, 4), torch.bfloat16, Kind.SHARDED),
    "model/one_row": ((1,), torch.float64, Kind.SHARDED),
    "optimizer/uneven/momentum": ((515, 6), torch.float16, Kind.SHARDED),
    "buffer/mask": ((7, 2), torch.bool, Kind.REPLICATED),
    "buffer/count": ((), torch.int64, Kind.REPLICATED),
    "buffer/empty": ((0, 3), torch.float32, Kind.REPLICATED),
}
ENTRIES = {
    name: Entry(name=name, kind=kind, dtype=dtype, shape=shape)
    for name, (shape, dtype, kind) in SHAPES.items()
}


def full(name):
    shape, dtype, _ = SHAPES[name]
    generator = torch.Generator().manual_seed(len(name))
    return torch.randint(-100, 100, shape, generator=generator).to(dtype)


def part(world_size, rank):
    tensors = {}
    for name, entry in ENTRIES.items():
        tensors[name] = full(name)
        if entry.kind is Kind.SHARDED:
            start, stop = row_range(entry.shape[0], world_size=world_size, rank=rank)
            tensors[name] = tensors[name][start:stop].clone()
    return Holding(
        round=1,
        step=5,
        world_size=world_size,
        rank=rank,
        entries=ENTRIES,
        tensors=tensors,
        extra={},
    )


def move(cases):
    """Each case: (group ranks of the holders, group ranks of the receivers)."""
    me = dist.get_rank()
    checked = 0
    for holders, receivers in cases:
        mine = {
            rank: part(len(holders), rank) for rank, holder in enumerate(holders) if holder == me
        }
        route = Route(
            holders=holders,
            receivers=receivers,
            without_state=[rank for rank in receivers if rank not in holders],
        )
        found = exchange(ENTRIES, mine, route=route, group_rank=me, device=torch.device("cpu"))
        if me not in receivers:
            assert found == {}
            continue
        want = part(len(receivers), receivers.index(me)).tensors
        assert list(found) == list(ENTRIES)
        for name, rows in want.items():
            assert found[name].dtype == rows.dtype, name
            assert torch.equal(found[name], rows), (name, holders, receivers)
            checked += 1
    return checked


def test_moves_every_row_bitwise_between_any_two_worlds():
    cases = [
        ((0,), (0, 1)), ((0, 1), (0,)), ((0, 1), (1,)), ((0, 1), (0, 1, 2, 3)),
        ((0, 1, 2, 3), (3, 1)), ((0, 1, 2), (2, 1, 0)), ((2, 0), (1, 3)), ((3,), (0, 1, 2, 3)),
        ((0, 1, 2, 3), (0, 1, 2)), ((1, 2, 3), (1, 2, 3)),
        # Who keeps a neighbour's part sends that too.
        ((0, 1, 1, 3), (0, 1, 3)), ((2, 2), (2,)), ((3, 3, 1), (0, 3, 2, 1)), ((0, 2, 2, 0), (2, 0)),
    ]  # fmt: skip
    want_checked = [
        len(ENTRIES) * sum(rank in receivers for _, receivers in cases) for rank in range(4)
    ]

    assert worlds.run(move, 4, cases) == want_checked


def test_rows_follow_the_rule_of_torch_chunk():
    for num_rows in range(1, 20):
        for world_size in range(1, 7):
            chunks = torch.arange(num_rows).chunk(world_size)
            for rank in range(world_size):
                start, stop = row_range(num_rows, world_size=world_size, rank=rank)
                want = chunks[rank].tolist() if rank < len(chunks) else []
                assert list(range(start, stop)) == want


def test_overlaps_cover_every_row_once_on_both_sides():
    for num_rows in (1, 2, 7, 515):
        for old in range(1, 6):
            for new in range(1, 6):
                moves = list(overlaps(num_rows, old_world_size=old, new_world_size=new))
                rows = [row for move in moves for row in range(move.start, move.stop)]
                assert rows == list(range(num_rows))
                for move in moves:
                    source = row_range(num_rows, world_size=old, rank=move.source)
                    target = row_range(num_rows, world_size=new, rank=move.target)
                    assert source[0] <= move.start < move.stop <= source[1]
                    assert target[0] <= move.start < move.stop <= target[1]
