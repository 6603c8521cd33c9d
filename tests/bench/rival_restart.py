"""The rival of resize_pause.py: a job that is restarted from a torch distributed checkpoint.

    torchrun --nproc-per-node=W rival_restart.py save FOLDER SIZE OUT
    torchrun --nproc-per-node=W rival_restart.py load FOLDER SIZE OUT

`save` trains one step, so that the optimizer has state, and writes checkpoints; `load` builds the
model at its world size, loads the newest and takes a step. It is written to be fast: built on the
meta device, plain DTensors in the state (no fake optimizer step), no imports but torch. Rank 0
leaves a JSON object in OUT; the time of the start of torchrun comes in RIVAL_STARTED (time.time).
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from models import SIZES, RandomTokens, Size, Transformer, adamw, loss_sum
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

SAVES = 3
NUM_MICRO_BATCHES = 4
"""Of one sample each, in a step: as in the run that is compared."""


def build(size: Size, world_size: int) -> Transformer:
    """The model with uninitialised rows."""
    with torch.device("meta"):
        model = Transformer(size)
    mesh = init_device_mesh("cpu", (world_size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    return model


def state_of(model: Transformer, optimizer: torch.optim.AdamW) -> dict[str, DTensor]:
    """Parameters and moments by name; moments that are not there yet are made, to be loaded."""
    state = {}
    for name, parameter in model.named_parameters():
        moments = optimizer.state[parameter]
        for key in ("exp_avg", "exp_avg_sq"):
            if key not in moments:
                moments[key] = torch.empty_like(parameter)
            state[f"optimizer/{name}/{key}"] = moments[key].detach()
        moments.setdefault("step", torch.tensor(1.0))
        state[f"model/{name}"] = parameter.detach()
    return state


def train_step(model: Transformer, optimizer: torch.optim.AdamW, size: Size) -> None:
    """One optimizer step."""
    world_size, rank = dist.get_world_size(), dist.get_rank()
    data = RandomTokens(vocabulary=size.vocabulary, context=size.context, windows=8)
    for _ in range(-(-NUM_MICRO_BATCHES // world_size)):
        (loss_sum(model, data[rank].unsqueeze(0)) / size.context).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    dist.barrier()


def save(folder: Path, size: Size) -> dict[str, list[float]]:
    """Seconds of each save."""
    model = build(size, dist.get_world_size())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.to_local().fill_(0.01)
    optimizer = adamw(model.parameters())
    train_step(model, optimizer, size)
    state = state_of(model, optimizer)
    seconds = []
    for number in range(SAVES):
        dist.barrier()
        start = time.perf_counter()
        dcp.save(state, checkpoint_id=folder / str(number))
        seconds.append(time.perf_counter() - start)
    return {"save_seconds": seconds}


def load(folder: Path, size: Size) -> dict[str, float]:
    """Seconds from the start of torchrun to being ready, in parts, and of the first step."""
    started = float(os.environ["RIVAL_STARTED"])
    imported = time.time()
    model = build(size, dist.get_world_size())
    optimizer = adamw(model.parameters())
    built = time.time()
    dcp.load(state_of(model, optimizer), checkpoint_id=folder / str(SAVES - 1))
    dist.barrier()
    ready = time.time()
    train_step(model, optimizer, size)
    return {
        "pause_seconds": ready - started,
        "start_seconds": imported - started,
        "build_seconds": built - imported,
        "load_seconds": ready - built,
        "first_step_seconds": time.time() - ready,
    }


def main() -> None:
    what, folder, name, out = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    result = {"save": save, "load": load}[what](Path(folder), SIZES[name])
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(result))
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
