import json
import math

import pytest

from concertina_api.v1alpha1 import Batch
from concertina_trainer.loop.progress import Progress
from concertina_trainer.schedule.controller import BatchController
from concertina_trainer.schedule.spikes import Losses, Skipped

CONTROLLER = BatchController.of(
    Batch.model_validate({"microBatchSize": 2, "initial": 8, "max": 64}),
    total_samples=10_000,
    warmup_samples=0,
)
START = Progress(global_batch_size=8, controller=CONTROLLER.start(), evaluation_losses={})


def after(progress, *, loss=2.0, skipped=None):
    return progress.after_step(
        8,
        loss=loss,
        skipped=skipped,
        next_batch=8,
        controller=progress.controller,
        micro_batch_seconds=0.1,
        worker_seconds=0.4,
        stop=False,
    )


@pytest.mark.parametrize(
    ("skipped", "loss"), [(Skipped.NOT_FINITE, math.nan), (Skipped.SPIKE, 99.0)]
)
def test_a_skipped_step_is_counted_and_its_loss_is_not(skipped, loss):
    one = after(START)
    two = after(one, skipped=skipped, loss=loss)
    assert (two.step, two.samples, two.skipped_steps, two.skipped_in_a_row) == (2, 16, 1, 1)
    assert two.losses == one.losses == Losses().after(2.0)
    assert (one.useful_seconds, two.useful_seconds) == (0.4, 0.4)
    assert after(two).skipped_in_a_row == 0


def test_going_back_leaves_samples_and_skipped_steps_where_they_are():
    before = after(START)
    present = after(after(before, skipped=Skipped.SPIKE), skipped=Skipped.SPIKE)
    back = present.rolled_back(before)
    assert (back.step, back.samples, back.rollbacks) == (3, 24, 1)
    assert (back.skipped_steps, back.skipped_in_a_row) == (2, 2)
    assert back.useful_seconds == before.useful_seconds


def test_progress_of_an_earlier_release_knows_no_losses():
    told = json.loads(json.dumps(after(START).to_json()))
    assert Progress.from_json(told, controller=CONTROLLER) == after(START)
    del told["losses"]
    assert Progress.from_json(told, controller=CONTROLLER).losses == Losses()
