import copy
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from concertina_trainer.loop.waits import Waits
from concertina_trainer.loop.world import World
from concertina_trainer.rounds.transport import Groups
from tests import worlds
from tests.models import TinyLM, loss_sum, tokens

SLOW_SECONDS = 1.0


def test_whoever_comes_last_makes_the_others_wait():
    quick, slow = worlds.run(wait_for_a_slow_rank, 2)

    assert quick["waited"] > slow["waited"] + SLOW_SECONDS / 2
    assert quick["again"] == slow["again"] == 0.0
    assert quick["gradients"] == slow["gradients"]
    assert quick["gradients"] == pytest.approx(quick["unsharded"], rel=1e-4)


def wait_for_a_slow_rank():
    """Rank 1 comes late to its forward pass."""
    torch.manual_seed(0)
    model = TinyLM()
    torch.nn.init.normal_(model.positions)
    unsharded = squares_after_backward(copy.deepcopy(model))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    waits = Waits(model, Groups(dist.get_rank(), dist.get_world_size(), None, mesh))
    loss_sum(model, tokens(0, 2)).backward()
    waits.take()
    dist.barrier()
    if dist.get_rank() == 1:
        time.sleep(SLOW_SECONDS)  # the slowness itself, not a wait for a condition
    loss_sum(model, tokens(0, 2)).backward()
    waited = waits.take()
    again = waits.take()
    model.zero_grad()
    gradients = squares_after_backward(model)
    return {"waited": waited, "again": again, "gradients": gradients, "unsharded": unsharded}


def squares_after_backward(model):
    """Of the gradients, all ranks having the same samples."""
    loss_sum(model, tokens(0, 2)).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    whole = [g.full_tensor() if isinstance(g, DTensor) else g for g in gradients]
    return [gradient.square().sum().item() for gradient in whole]


def test_a_round_waits_so_from_its_first_gathering_on():
    assert worlds.run(gather_before_the_first_step, 2) == [[True], [True]]


def gather_before_the_first_step():
    """Whether each collective of a fresh world is waited for by `Waits`; also one not waited for."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = fully_shard(nn.Linear(4, 4), mesh=mesh)
    live = SimpleNamespace(
        model=model, groups=Groups(dist.get_rank(), dist.get_world_size(), None, mesh)
    )
    world = World(
        live=live, control=None, loader=None, device=torch.device("cpu"), before_update=ignore
    )
    handle = model.unshard(async_op=True)
    waited = [world.waits.take() > 0]
    handle.wait()
    return waited


def ignore():
    """Nothing reads the parameters."""
