import re
from typing import Any

import pytest
import torch
import torch.distributed as dist

from concertina_api.errors import InvalidJob
from concertina_api.manifest import parse_job
from concertina_trainer.data.loader import Loader
from concertina_trainer.data.micro_batches import training_batches
from concertina_trainer.loading import load_task
from concertina_trainer.loop.warm_up import warm_up
from tests import worlds
from tests.tasks import job_document


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        pytest.param({}, "", id="nothing"),
        pytest.param({"config": {"optimizer": "Preconditioned"}}, "", id="replicated matrices"),
        pytest.param(
            {"config": {"optimizer": "LBFGS"}},
            "optimizer LBFGS cannot step on parameters that are sharded by rows: .*closure",
            id="an optimizer that wants a closure",
        ),
        pytest.param(
            {"model": "tests.e2e.tasks:WithAdafactor"},
            "optimizer Adafactor cannot step on parameters that are sharded by rows",
            id="an optimizer that torch cannot run on rows",
        ),
        pytest.param(
            {"model": "tests.e2e.tasks:ListOptimizer"},
            "history is a list; only tensors and numbers can move",
            id="optimizer state that cannot move",
        ),
        pytest.param(
            {"model": "tests.e2e.tasks:Replicated"},
            "parameter positions is not sharded: shard.. must cover every parameter",
            id="a parameter that is not sharded",
        ),
        pytest.param(
            {"model": "tests.e2e.tasks:Hybrid"},
            "HSDP, tensor and pipeline parallel meshes are refused",
            id="hybrid sharding",
        ),
    ],
)
def test_refuses_what_could_not_be_moved(changes: dict[str, Any], want: str) -> None:
    (message,) = worlds.run(_refusal, 1, job_document(**changes))
    assert re.search(want, message) if want else message == ""


def _refusal(document: dict[str, Any]) -> str:
    dist.destroy_process_group()
    spec = parse_job(document).spec
    task = load_task(spec)
    loader = Loader(training_batches(spec, task), num_processes=0)
    try:
        warm_up(spec, task, loader=loader, device=torch.device("cpu"))
    except InvalidJob as error:
        return str(error)
    return ""
