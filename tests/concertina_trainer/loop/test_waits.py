import time

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from concertina_trainer.loop.waits import Waits
from tests import worlds
from tests.models import TinyLM, loss_sum, tokens

SLOW_SECONDS = 1.0


def test_whoever_comes_last_makes_the_others_wait():
    quick, slow = worlds.run(wait_for_a_slow_rank, 2)

    assert quick["waited"] > slow["waited"] + SLOW_SECONDS / 2
    assert quick["again"] == slow["again"] == 0.0
    assert quick["gradient"] == slow["gradient"] > 0


def wait_for_a_slow_rank():
    """Rank 1 comes late to its forward pass."""
    model = TinyLM()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    waits = Waits(model)
    loss_sum(model, tokens(0, 2)).backward()
    waits.take()
    dist.barrier()
    if dist.get_rank() == 1:
        time.sleep(SLOW_SECONDS)  # the slowness itself, not a wait for a condition
    loss_sum(model, tokens(0, 2)).backward()
    waited = waits.take()
    again = waits.take()
    gradients = [p.grad.full_tensor() for p in model.parameters() if p.grad is not None]
    square = sum(gradient.square().sum().item() for gradient in gradients)
    return {"waited": waited, "again": again, "gradient": square}
