"""The rival of recovery.py and goodput.py: training under torchrun that restarts from checkpoints.

    torchrun --standalone --nproc-per-node=W --max-restarts=1000 rival_training.py FOLDER SIZE SECONDS

The fastest way that torch offers: built on the meta device, plain DTensors in the state,
`dcp.async_save` every SECONDS seconds on a process group of its own, no imports but torch. The same
model, batch and optimizer as ours. Rank 0 leaves a row in FOLDER/rows.jsonl after each step; each
worker leaves its process id in FOLDER/worker-<rank>.
"""

import json
import os
import shutil
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from models import SIZES, RandomTokens, adamw, loss_sum
from rival_restart import build, state_of

NUM_MICRO_BATCHES = 8
TOKENS = 64
KEPT = 2


class Checkpoints:
    """Saves in the background, one at a time; the newest that is whole is loaded."""

    def __init__(self, folder: Path, *, every_seconds: float) -> None:
        self._folder = folder
        self._every_seconds = every_seconds
        self._group = dist.new_group(backend="gloo")  # async_save talks while training does
        self._pending: Future[Any] | None = None
        self._last = time.monotonic()

    def whole(self) -> list[int]:
        """Steps of the checkpoints that can be loaded, the newest last."""
        return sorted(int(path.parent.name) for path in self._folder.glob("*/.metadata"))

    def is_due(self) -> bool:
        """On rank 0, whose answer counts for all."""
        busy = self._pending is not None and not self._pending.done()
        return not busy and time.monotonic() - self._last >= self._every_seconds

    def save(self, state: dict[str, Any], step: int) -> None:
        """Begin to save; the loop waits for the copy alone."""
        if self._pending is not None:
            self._pending.result()
        place = self._folder / str(step)
        self._pending = dcp.async_save(state, checkpoint_id=place, process_group=self._group)
        self._last = time.monotonic()
        if dist.get_rank() == 0:
            for old in self.whole()[:-KEPT]:
                shutil.rmtree(self._folder / str(old), ignore_errors=True)


def main() -> None:
    folder, size, seconds = Path(sys.argv[1]), SIZES[sys.argv[2]], float(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    (folder / f"worker-{rank}").write_text(str(os.getpid()))
    model = build(size, world_size)
    optimizer = adamw(model.parameters())
    checkpoints = Checkpoints(folder / "checkpoints", every_seconds=seconds)
    step = begin(checkpoints, state_of(model, optimizer))
    tokens = min(TOKENS, size.context)
    data = RandomTokens(vocabulary=size.vocabulary, context=tokens)
    while True:
        started = time.perf_counter()
        for number in range(rank, NUM_MICRO_BATCHES, world_size):
            sample = data[(step * NUM_MICRO_BATCHES + number) % len(data)]
            (loss_sum(model, sample.unsqueeze(0)) / tokens / NUM_MICRO_BATCHES).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        due = torch.tensor(rank == 0 and checkpoints.is_due(), dtype=torch.int32)
        dist.broadcast(due, src=0)
        if rank == 0:
            row = {"step": step, "seconds": time.perf_counter() - started, "time": time.time()}
            with (folder / "rows.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        if due:
            checkpoints.save(state_of(model, optimizer), step)


def begin(checkpoints: Checkpoints, state: dict[str, Any]) -> int:
    """Load the newest checkpoint that rank 0 finds, or fill in a first state; the step."""
    newest = torch.tensor(max(checkpoints.whole(), default=0))
    dist.broadcast(newest, src=0)
    step = int(newest)
    if step:
        dcp.load(state, checkpoint_id=checkpoints._folder / str(step))
    else:
        with torch.no_grad():
            for name, value in state.items():
                value.to_local().fill_(0.01 if name.startswith("model/") else 0.0)
    return step


if __name__ == "__main__":
    main()
