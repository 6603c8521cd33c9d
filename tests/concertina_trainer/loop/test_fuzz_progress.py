"""The progress in a checkpoint or a hand-over, spoilt: an error that it documents, or progress."""

import json

from concertina_api.v1alpha1 import Batch
from concertina_trainer.loop.progress import PartialEvaluation, Progress
from concertina_trainer.schedule.controller import BatchController
from concertina_trainer.schedule.spikes import Losses
from tests.fuzzing import LENGTHS, anything, fuzz, refused, spoilt

CONTROLLER = BatchController.of(
    Batch.model_validate(
        {"microBatchSize": 2, "initial": 8, "max": 64, "shadowRules": [{"name": "NoiseScale"}]}
    ),
    total_samples=10_000,
    warmup_samples=0,
)
GOOD = [
    Progress(global_batch_size=8, controller=CONTROLLER.start(), evaluation_losses={}).to_json(),
    Progress(
        step=3,
        samples=24,
        global_batch_size=8,
        controller=CONTROLLER.start(),
        evaluation_losses={"train": 0.5},
        evaluation=PartialEvaluation(name="v", next_micro_batch=2, totals={"loss": 1.0}),
        losses=Losses().after(2.0).after(1.0),
    ).to_json(),
]


@LENGTHS
def test_a_document_is_progress_or_refused(examples):
    def check(document):
        progress, _ = refused(
            lambda: Progress.from_json(document, controller=CONTROLLER),
            error=(KeyError, ValueError),
        )
        if progress is not None:
            json.dumps(progress.to_json())

    fuzz(check, spoilt(GOOD) | anything, examples=examples)
