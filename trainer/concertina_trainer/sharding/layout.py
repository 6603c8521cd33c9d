"""Which rows of a tensor each worker holds. Pure: no torch, no I/O.

FSDP2 shards dimension 0 by the rule of torch.chunk: c = ceil(n / W), rank i holds rows
[min(i c, n), min((i + 1) c, n)); with fewer rows than ranks the last ranks hold none.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Overlap(NamedTuple):
    """Rows [start, stop) that `source` holds in the old world and `target` in the new one."""

    source: int
    target: int
    start: int
    stop: int


def row_range(num_rows: int, *, world_size: int, rank: int) -> tuple[int, int]:
    """Rows [start, stop) of a tensor of `num_rows` rows that `rank` holds."""
    chunk = -(-num_rows // world_size)
    return min(rank * chunk, num_rows), min((rank + 1) * chunk, num_rows)


def overlaps(num_rows: int, *, old_world_size: int, new_world_size: int) -> Iterator[Overlap]:
    """All non-empty overlaps between two worlds, ordered by row."""
    for source in range(old_world_size):
        start, stop = row_range(num_rows, world_size=old_world_size, rank=source)
        for target in range(new_world_size):
            first, last = row_range(num_rows, world_size=new_world_size, rank=target)
            if max(start, first) < min(stop, last):
                yield Overlap(source, target, max(start, first), min(stop, last))
