"""A small training state of every awkward kind, a pure function of its step."""

import threading
from collections.abc import Callable
from pathlib import Path

import torch

from concertina_trainer.checkpoint.format import origin
from concertina_trainer.checkpoint.reader import Checkpoint, find, load, verify
from concertina_trainer.checkpoint.storage import Location
from concertina_trainer.checkpoint.writer import Writer
from concertina_trainer.sharding.layout import row_range
from concertina_trainer.sharding.state import Entry, Holding, Kind

JOB = "tiny-lm"
ENTRIES = {
    name: Entry(name=name, kind=kind, dtype=dtype, shape=shape)
    for name, kind, dtype, shape in (
        ("model/embed", Kind.SHARDED, torch.float32, (7, 3)),
        ("model/few", Kind.SHARDED, torch.bfloat16, (2, 5)),
        ("model/none", Kind.SHARDED, torch.float32, (0, 4)),
        ("model/bias", Kind.SHARDED, torch.float32, (13,)),
        ("optimizer/embed/exp_avg", Kind.SHARDED, torch.float32, (7, 3)),
        ("optimizer/embed/step", Kind.REPLICATED, torch.float32, ()),
        ("optimizer/matrix", Kind.REPLICATED, torch.float64, (3, 3)),
        ("buffer/count", Kind.REPLICATED, torch.int64, ()),
        ("buffer/mask", Kind.REPLICATED, torch.bool, (5,)),
    )
}


def whole(step: int, entries: dict[str, Entry] = ENTRIES) -> dict[str, torch.Tensor]:
    """The full tensors of the state after `step`."""
    generator = torch.Generator().manual_seed(step)
    return {
        entry.name: (torch.randn(entry.shape, generator=generator) * 100).to(entry.dtype)
        for entry in entries.values()
    }


def holding(
    step: int,
    *,
    world_size: int = 1,
    rank: int = 0,
    round_number: int = 1,
    entries: dict[str, Entry] = ENTRIES,
) -> Holding:
    """What `rank` holds of the state after `step`."""
    tensors = {}
    for name, tensor in whole(step, entries).items():
        if entries[name].kind is Kind.SHARDED:
            start, stop = row_range(len(tensor), world_size=world_size, rank=rank)
            tensors[name] = tensor[start:stop].clone()
        else:
            tensors[name] = tensor
    return Holding(
        round=round_number,
        step=step,
        world_size=world_size,
        rank=rank,
        entries=entries,
        tensors=tensors,
        extra={"samples": 8 * step, "best": float("inf"), "schedule": {"batch": 16}},
    )


def world(round_number: int) -> str:
    """The origin of a round's workers."""
    return origin([f"uid.{round_number}/0"])


def always() -> bool:
    return True


def save(
    path: Location,
    step: int,
    *,
    world_size: int = 1,
    round_number: int = 1,
    keep: int = 3,
    job: str = JOB,
    may_publish: Callable[[], bool] = always,
    entries: dict[str, Entry] = ENTRIES,
) -> list[Writer]:
    """Save one step by writers of all ranks at once; they are closed."""
    writers = [Writer(path, job=job, keep=keep, deadline_seconds=60) for _ in range(world_size)]
    for rank, writer in enumerate(writers):
        held = holding(
            step, world_size=world_size, rank=rank, round_number=round_number, entries=entries
        )
        writer.save(held, origin=world(round_number), may_publish=may_publish)
    for writer in writers:
        assert writer.wait(60)
        writer.close()
    return writers


def found_step(path: Location) -> int | None:
    """Step of the newest usable checkpoint, after checking all of its content."""
    checkpoint = find(path, job=JOB)
    if checkpoint is None:
        return None
    verify(checkpoint, part=0, parts=1)
    return checked(checkpoint)


def checked(checkpoint: Checkpoint) -> int:
    """The step of a checkpoint whose tensors are bitwise those of that step."""
    step = checkpoint.manifest.identity.step
    held = load(checkpoint, world_size=1, rank=0)
    for name, want in whole(step, dict(held.entries)).items():
        assert same_bits(held.tensors[name], want), name
    return step


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(
            one.contiguous().reshape(-1).view(torch.uint8),
            other.contiguous().reshape(-1).view(torch.uint8),
        )
    )


def folder_names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def writer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "checkpoint-writer"]


def large_entries(*, rows: int = 1001) -> dict[str, Entry]:
    """The state with a tensor of some megabytes, so that a kill often falls into its writing."""
    large = Entry(name="model/large", kind=Kind.SHARDED, dtype=torch.float32, shape=(rows, 1000))
    return ENTRIES | {large.name: large}
