"""Moves rows between two worlds, point to point, exactly the overlapping ones.

Called inside the transaction of a round, over a group that holds everyone who has rows and
everyone who needs some. Every participant walks the same entries in the same order, so the
messages between two ranks match without tags.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from concertina_trainer.sharding.layout import overlaps, row_range
from concertina_trainer.sharding.messages import deliver
from concertina_trainer.sharding.state import Entry, Holding, Kind

STAGING_BYTES = 256 * 2**20
"""Rows on their way through a GPU at one time; a larger tensor travels alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Who sends and who receives, in ranks of the exchange's group."""

    holders: Sequence[int]
    """Group rank that sends each part of the old world; one may send several."""
    receivers: Sequence[int]
    """Group rank of each rank of the new world."""
    without_state: Sequence[int]
    """Group ranks of receivers that hold nothing and need replicated tensors as well."""


def exchange(
    entries: Mapping[str, Entry],
    mine: Mapping[int, Holding],
    *,
    route: Route,
    group_rank: int,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """This rank's part of every tensor in the new world; empty for one who only sends.

    `mine` holds the parts of the old world that this rank sends, by old rank.
    Extra memory: the result, and on a GPU at most STAGING_BYTES (or one tensor) of rows to send.
    """
    result: dict[str, torch.Tensor] = {}
    for chunk in _chunks(entries.values()):
        messages: list[dist.P2POp] = []
        for entry in chunk:
            if entry.kind is Kind.SHARDED:
                rows = _move_rows(entry, mine, route, group_rank, device, messages)
            else:
                rows = _copy_whole(entry, mine, route, group_rank, device, messages)
            if rows is not None:
                result[entry.name] = rows
        deliver(messages)
    return result


def _chunks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        num_bytes = torch.Size(entry.shape).numel() * entry.dtype.itemsize
        if chunk and size + num_bytes > STAGING_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(entry)
        size += num_bytes
    if chunk:
        yield chunk


def _move_rows(
    entry: Entry,
    mine: Mapping[int, Holding],
    route: Route,
    group_rank: int,
    device: torch.device,
    messages: list[dist.P2POp],
) -> torch.Tensor | None:
    num_rows = entry.shape[0]
    old_size, new_size = len(route.holders), len(route.receivers)
    target, first, last = None, 0, 0
    if group_rank in route.receivers:
        rank = route.receivers.index(group_rank)
        first, last = row_range(num_rows, world_size=new_size, rank=rank)
        target = torch.empty((last - first, *entry.shape[1:]), dtype=entry.dtype, device=device)
    for overlap in overlaps(num_rows, old_world_size=old_size, new_world_size=new_size):
        sender, receiver = route.holders[overlap.source], route.receivers[overlap.target]
        rows = None
        if sender == group_rank:
            base, _ = row_range(num_rows, world_size=old_size, rank=overlap.source)
            part = mine[overlap.source].tensors[entry.name]
            rows = part[overlap.start - base : overlap.stop - base]
        if receiver == group_rank and target is not None:
            place = target[overlap.start - first : overlap.stop - first]
            if rows is not None:
                place.copy_(rows)
            else:
                messages.append(dist.P2POp(dist.irecv, place, sender))
        elif rows is not None:
            messages.append(dist.P2POp(dist.isend, rows.to(device).contiguous(), receiver))
    return target


def _copy_whole(
    entry: Entry,
    mine: Mapping[int, Holding],
    route: Route,
    group_rank: int,
    device: torch.device,
    messages: list[dist.P2POp],
) -> torch.Tensor | None:
    num_elements = torch.Size(entry.shape).numel()
    own = next((part.tensors[entry.name] for part in mine.values()), None)
    for number, receiver in enumerate(route.without_state if num_elements else ()):
        sender = route.holders[number % len(route.holders)]
        if sender == group_rank and own is not None:
            whole = own.to(device).contiguous()
            messages.append(dist.P2POp(dist.isend, whole, receiver))
        elif receiver == group_rank:
            whole = torch.empty(entry.shape, dtype=entry.dtype, device=device)
            messages.append(dist.P2POp(dist.irecv, whole, sender))
            return whole
    if group_rank not in route.receivers:
        return None
    if own is None:
        return torch.empty(entry.shape, dtype=entry.dtype, device=device)
    return own.to(device, copy=True)
