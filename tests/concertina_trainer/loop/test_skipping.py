"""What a skipped step leaves alone, and what a roll-back brings back: tensor by tensor."""

import time
import zlib
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from concertina_trainer.schedule.order import Shuffled
from concertina_trainer.schedule.spikes import FEWEST_STEPS
from tests.play import play
from tests.tasks import TinyTask, job_document

SIZE, BATCH = 1024, 8
SNAPSHOT = 5
"""The step after which the snapshot is taken that both roll-backs go to."""
ALL = {"model", "optimizer", "average", "buffer"}


class Rough(TinyTask):
    """The losses of some samples, or their gradients alone, are not what they should be."""

    def __init__(self, *, rough, trouble, alike):
        super().__init__(batch_norm=True, layers=1, size=SIZE)
        self.rough = set(rough)
        self.trouble = trouble
        self.alike = alike

    def loss(self, model, batch):
        indices, ids = batch
        loss = super().loss(model, (indices, torch.ones_like(ids) if self.alike else ids))
        if not self.rough & set(indices.tolist()):
            return loss
        match self.trouble:
            case "loss":
                total = loss.total * torch.nan
            case "gradient":  # a root of zero adds nothing to the loss, but its slope is infinite
                total = loss.total + (loss.total - loss.total.detach()).sqrt()
            case "spike":
                total = loss.total * 5.0
        return replace(loss, total=total)


def checksums(training):
    """Of each tensor that the worker holds, by name, with the optimizer's numbers.

    A snapshot under way is waited for, so that it counts after the next step.
    """
    step, snapshots = training.progress.step, training.keeper.snapshots
    deadline = time.monotonic() + 60
    while not snapshots.off and step in (0, SNAPSHOT) and snapshots.held < step:
        assert time.monotonic() < deadline, snapshots.facts
        time.sleep(0.001)
    held = training.keeper.hold()
    tensors = {name: zlib.crc32(rows.numpy().tobytes()) for name, rows in held.tensors.items()}
    return tensors | {"optimizer/numbers": held.extra["optimizer"]["scalars"]}


def changed(before, after):
    """The kinds of tensors of which one or more differ."""
    names = before.keys() | after.keys()
    return {name.split("/")[0] for name in names if before.get(name) != after.get(name)}


def trained(folder, *, steps, rough, trouble="loss", alike=False, pods=1, training=None):
    """A run with trouble in some steps, each time in one micro-batch of one worker."""
    order = Shuffled(num_samples=SIZE, seed=0)
    samples = [order.index((step - 1) * BATCH) for step in rough]
    document = job_document(
        model=f"{__name__}:Rough",
        samples=steps * BATCH,
        config={"rough": samples, "trouble": trouble, "alike": alike},
        training={"averageDecay": 0.9, "maxSkippedSteps": steps, **(training or {})},
        snapshots={"everySteps": SNAPSHOT},
    )
    return play(document, folder, {0: list(range(pods))}, look=checksums)


@pytest.mark.parametrize(
    ("trouble", "first", "want"),
    [
        pytest.param("loss", 3, "NotFinite", id="the loss is not finite"),
        pytest.param("gradient", 3, "NotFinite", id="the gradient is not finite"),
        pytest.param("spike", FEWEST_STEPS + 3, "Spike", id="the loss spikes"),
    ],
)
def test_a_skipped_step_changes_no_tensor(tmp_path, trouble, first, want):
    rough = [first, first + 1, first + 3]
    played = trained(
        tmp_path, steps=first + 5, rough=rough, trouble=trouble, training={"spikeDeviations": 20}
    )
    (held,) = played.seen

    for step, (before, after) in enumerate(pairwise(held), 1):
        assert changed(before, after) == (set() if step in rough else ALL), step
    skipped = {row["step"]: row["skipped"] for row in played.steps if row.get("skipped")}
    assert skipped == dict.fromkeys(rough, want)


def test_the_steps_after_a_skipped_one_are_those_of_a_run_without_it(tmp_path):
    (rough,) = trained(tmp_path / "rough", steps=7, rough=[3], alike=True).seen
    (calm,) = trained(tmp_path / "calm", steps=7, rough=[], alike=True).seen

    assert rough[3:] == calm[2:-1]


def test_every_roll_back_brings_back_each_tensor_of_the_snapshot(tmp_path):
    rough = [7, 8, 10, 11]
    played = trained(tmp_path, steps=13, rough=rough, pods=2, training={"rollBackAfter": 2})

    for held in played.seen:
        for last, back in [(6, 8), (9, 11)]:
            assert changed(held[SNAPSHOT], held[last]) == ALL
            assert changed(held[SNAPSHOT], held[back]) == set()
        assert changed(held[back], held[back + 1]) == ALL
