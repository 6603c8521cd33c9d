"""Jobs for tests on a real node."""

from typing import Any

from concertina_operator.cluster.environment import RUN_PATH
from tests.tasks import job_document


def growing(**changes: Any) -> dict[str, Any]:
    """A job of one pod that wants a second one from its fourth step on, until it is told to end."""
    spec = {
        "model": "tests.e2e.tasks:UntilTold",
        "config": {"folder": RUN_PATH, "step_seconds": 0.02},
        "samples": 10**6,
        "batch": {
            "microBatchSize": 2,
            "initial": 4,
            "max": 8,
            "maxAccumulation": 2,
            "rule": {"name": "Ramp", "stages": [{"samples": 12, "batch": 8}]},
        },
        "pods": {"min": 1, "max": 2},
        "scaling": {"scaleUpCooldownSeconds": 0, "scaleDownCooldownSeconds": 0},
        "checkpoint": {"path": f"{RUN_PATH}/checkpoints", "everySeconds": None},
    }
    return job_document(**(spec | changes))
