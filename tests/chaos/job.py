"""The manifest of the job under chaos, the same wherever it runs. Pure."""

from typing import Any, Final

from tests.tasks import job_document

SAMPLES: Final = 900
MAX_PODS: Final = 3
BATCHES: Final = ((0, 4), (16, 8), (64, 12))
"""(samples, batch) from which it trains on so many pods as it has pairs of micro-batches."""


def document(*, views: str, checkpoints: str) -> dict[str, Any]:
    """Grows from one pod to three, and takes some tens of seconds.

    Args:
        views: Folder where each worker writes what it sees of the parameters.
        checkpoints: Folder of the checkpoints.
    """
    (_, initial), *later = BATCHES
    return job_document(
        model="tests.chaos.tasks:ChaosTask",
        config={"folder": views, "size": SAMPLES, "step_seconds": 0.02, "layers": 2, "width": 34},
        samples=SAMPLES,
        batch={
            "microBatchSize": 2,
            "initial": initial,
            "max": BATCHES[-1][1],
            "maxAccumulation": 2,
            "rule": {
                "name": "Ramp",
                "stages": [{"samples": samples, "batch": batch} for samples, batch in later],
            },
        },
        pods={"min": 1, "max": MAX_PODS},
        scaling={"scaleUpCooldownSeconds": 0, "scaleDownCooldownSeconds": 0},
        checkpoint={"path": checkpoints, "everySeconds": 1},
    )
