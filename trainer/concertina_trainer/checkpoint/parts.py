"""Which tensors each rank writes, and which it verifies. Pure: no I/O.

Called by the writer, the manifest and the reader.
"""

from collections.abc import Iterable, Iterator, Sequence

from concertina_trainer.checkpoint.tensor_layout import TensorSpec
from concertina_trainer.sharding.layout import row_range
from concertina_trainer.sharding.state import Entry, Kind


def written_by(entries: Iterable[Entry], *, world_size: int, rank: int) -> Iterator[TensorSpec]:
    """What the file of `rank` holds: its rows if any; replicated tensors are in rank 0's only."""
    for entry in entries:
        if entry.kind is Kind.SHARDED:
            start, stop = row_range(entry.shape[0], world_size=world_size, rank=rank)
            if start < stop:
                shape = (stop - start, *entry.shape[1:])
                yield TensorSpec(name=entry.name, dtype=entry.dtype, shape=shape)
        elif rank == 0:
            yield TensorSpec(name=entry.name, dtype=entry.dtype, shape=entry.shape)


def share(sizes: Sequence[int], *, part: int, parts: int) -> list[int]:
    """Indices of the pieces that fall to `part`, so that bytes are spread evenly over `parts`.

    Every piece falls to exactly one part: the one in which its middle byte lies.
    """
    total = max(sum(sizes), 1)
    chosen = []
    begin = 0
    for index, size in enumerate(sizes):
        # In halves of bytes, to stay exact; an empty last piece would fall behind the end.
        if min((2 * begin + size) * parts // (2 * total), parts - 1) == part:
            chosen.append(index)
        begin += size
    return chosen
