"""What a worker hands over of that which it holds."""

from dataclasses import replace

import pytest
import torch

from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.checkpoint.storage import storage_at
from concertina_trainer.loop.keeper import StateKeeper
from concertina_trainer.loop.origin import Origin
from concertina_trainer.loop.progress import Progress
from concertina_trainer.rounds.agreement import Source
from concertina_trainer.schedule.controller import BatchController
from tests.concertina_trainer.checkpoint.states import JOB, holding
from tests.tasks import TinyTask, job_document


@pytest.fixture
def keeper(tmp_path):
    spec, task, cpu = (
        JobSpec.model_validate(job_document()["spec"]),
        TinyTask(),
        torch.device("cpu"),
    )
    controller = BatchController.of(spec.batch, total_samples=100, warmup_samples=0)
    return StateKeeper(
        spec,
        task,
        device=cpu,
        controller=controller,
        initial=Progress(global_batch_size=8, controller=controller.start(), evaluation_losses={}),
        origin=Origin(
            spec,
            task,
            job=JOB,
            storage=storage_at(str(tmp_path)),
            device=cpu,
            written_step=lambda: 0,
        ),
        expect=lambda *_: None,
    )


def unread(part):
    """The part with tensors that cannot be read, only passed on."""
    tensors = {name: tensor.to("meta") for name, tensor in part.tensors.items()}
    return replace(part, tensors=tensors)


@pytest.mark.parametrize(
    ("round_number", "step", "snapshot", "want"),
    [
        pytest.param(1, 5, False, [1], id="the older of two"),
        pytest.param(2, 5, False, [0], id="the newer of two"),
        pytest.param(3, 5, False, [], id="of another round"),
        pytest.param(1, 6, False, [], id="of another step"),
        pytest.param(1, 5, True, [], id="a snapshot of the same state"),
    ],
)
def test_the_parts_of_a_state_are_found_without_reading_them(
    keeper, round_number, step, snapshot, want
):
    keeper.held = [
        unread(holding(5, world_size=2, rank=1, round_number=1)),
        unread(holding(5, world_size=2, rank=0, round_number=2)),
    ]
    source = Source(round=round_number, step=step, world_size=2, holders=(0, 1), snapshot=snapshot)

    assert list(keeper.holdings(source)) == want
