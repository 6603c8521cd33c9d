import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from concertina_api.v1alpha1 import Precision
from concertina_trainer.task import build


@pytest.fixture(scope="module")
def mesh():
    """A world of one worker, in this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.fixture
def train(mesh):
    """Train a task for some steps on a world of one; its model and mean losses."""

    def run(task, *, steps, samples, rate=3e-3, precision=Precision.FLOAT32):
        torch.manual_seed(0)
        model = build(task).model
        task.shard(model, mesh, precision=precision)
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        optimizer = task.optimizer(trained)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = []
        for step in range(steps):
            loss = task.loss(model, task.collate(samples(step)))
            (loss.total / loss.weight).backward()
            losses.append(loss.total.item() / float(loss.weight))
            optimizer.step()
            optimizer.zero_grad()
        return model, losses

    return run
