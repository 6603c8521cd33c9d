"""Collects what is known about a run that has ended; see invariants.py for what it is judged by."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from concertina_trainer.checkpoint.reader import find, read_whole, verify
from tests.chaos.invariants import View

KEPT = (".lock",)
"""Hidden files that a run's folder keeps."""


def step_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of steps; a line that was cut by the end of its writer, or of the disk, is none."""
    rows = lines(folder / "steps.jsonl")
    return [row for row in rows if isinstance(row, dict) and "global_batch_size" in row]


def lines(path: Path) -> Iterator[Any]:
    """What the whole lines of a file hold; none without the file."""
    text = path.read_text(errors="replace") if path.exists() else ""
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def final_state(checkpoints: Path, *, job: str) -> Mapping[str, torch.Tensor]:
    """All tensors of the newest checkpoint, whose checksums are right; empty without one."""
    checkpoint = find(checkpoints, job=job)
    if checkpoint is None:
        return {}
    verify(checkpoint, part=0, parts=1)
    return {name: read_whole(checkpoint, entry) for name, entry in checkpoint.entries.items()}


def views(folder: Path) -> list[View]:
    """What all workers saw; a line that was cut is left out."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for position, world_size, rank, sight in lines(path):
            found.append(
                View(
                    worker=path.stem,
                    position=position,
                    world_size=world_size,
                    rank=rank,
                    sight=sight,
                )
            )
    return found


def left_in(folder: Path) -> list[str]:
    """What is in a folder for temporary files, but torch's cache, which is a user's for ever."""
    found = sorted(path.name for path in folder.iterdir())
    return [name for name in found if not name.startswith("torchinductor_")]


def temporary_files(folder: Path) -> list[str]:
    """Hidden files of a run's folder, which are all meant to be renamed or removed."""
    hidden = (path for path in folder.rglob(".*") if path.name not in KEPT)
    return sorted(str(path.relative_to(folder)) for path in hidden)


def unfinished_checkpoints(checkpoints: Path) -> list[str]:
    """Folders of checkpoints without a manifest."""
    folders = (path for path in checkpoints.glob("*") if path.is_dir())
    return sorted(path.name for path in folders if not (path / "manifest.json").exists())


def shared_memory(pids: set[int]) -> list[str]:
    """Segments of torch that these processes made."""
    segments = Path("/dev/shm").glob("torch_*")
    return sorted(path.name for path in segments if path.name.split("_")[1] in map(str, pids))
