"""Warms a worker up before any round names it: one step of real shape without peers.

Training must not wait for a joiner's imports, first build, compilation, data processes or device
context. torch's fake backend stands in for the others: memory is sharded as it will be, and no
connection is opened.
"""

import gc
import logging
import time

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.data.loader import Loader
from concertina_trainer.loop.forward import on_device
from concertina_trainer.sharding.collect import buffer_names, hold, parameter_names
from concertina_trainer.sharding.restore import build_sharded
from concertina_trainer.statistics.probe import GradientProbe
from concertina_trainer.task import Task

log = logging.getLogger(__name__)


def warm_up(spec: JobSpec, task: Task, *, loader: Loader, device: torch.device) -> None:
    """Run one micro-batch and one optimizer step on zeros, and free everything again.

    Raises InvalidJob for an optimizer or a sharding that the loop cannot work with.
    """
    # Registers the backend; it is torch's own means of testing sharded programs on one process.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    start = time.perf_counter()
    world_size = spec.pods.max * spec.pods.workers_per_pod
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        mesh = init_device_mesh(device.type, (world_size,))
        model = build_sharded(task, mesh, precision=spec.training.precision, device=device)
        with torch.no_grad():
            for tensor in (*parameter_names(model).values(), *buffer_names(model).values()):
                tensor.zero_()
        parameters = [(n, p) for n, p in parameter_names(model).items() if p.requires_grad]
        optimizer = task.optimizer(parameters)
        probe = GradientProbe(model)
        loss = task.loss(model, on_device(loader.get(0), device))
        with probe.micro_batch(loss.weight):
            torch.autograd.backward(loss.total)
        _step(optimizer)
        # Refuses what could not be moved, before anything is trained.
        hold(model, optimizer, average={}, round=0, step=0, world_size=world_size, rank=0, extra={})
        probe.detach()
        del model, optimizer, parameters, probe, loss, mesh
    finally:
        dist.destroy_process_group()
        gc.collect()
    log.info("warm after %.1f s", time.perf_counter() - start)


def _step(optimizer: torch.optim.Optimizer) -> None:
    try:
        optimizer.step()
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        raise InvalidJob(
            f"optimizer {type(optimizer).__name__} cannot step on parameters that are sharded by"
            f" rows: {error}"
        ) from error
