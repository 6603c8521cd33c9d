from hypothesis import given, settings
from hypothesis import strategies as st

from concertina_trainer.checkpoint.format import StoredEntry
from concertina_trainer.checkpoint.parts import share, written_by


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(min_value=0, max_value=10**6), max_size=30),
    parts=st.integers(min_value=1, max_value=8),
)
def test_shares_cover_each_piece_once_and_are_even(sizes: list[int], parts: int) -> None:
    shares = [share(sizes, part=part, parts=parts) for part in range(parts)]
    assert sorted(index for indices in shares for index in indices) == list(range(len(sizes)))
    for indices in shares:
        load_bytes = sum(sizes[index] for index in indices)
        assert load_bytes <= sum(sizes) / parts + max(sizes, default=0)


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(min_value=0, max_value=9), world_size=st.integers(min_value=1, max_value=5))
def test_the_parts_of_a_world_hold_every_row_and_no_empty_tensor(
    rows: int, world_size: int
) -> None:
    entry = StoredEntry(name="x", kind="sharded", dtype="float32", shape=(rows, 2)).entry()
    parts = [
        spec.shape[0]
        for rank in range(world_size)
        for spec in written_by([entry], world_size=world_size, rank=rank)
    ]
    assert sum(parts) == rows
    assert all(parts)
