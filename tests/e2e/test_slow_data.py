"""Several workers in a pod, and samples that take 200 ms each to load."""

from pathlib import Path

import pytest

from tests.e2e.records import samples_in_order
from tests.e2e.runs import started
from tests.tasks import job_document

LOAD_SECONDS = 0.2
TOLERANCE_SECONDS = 0.2


@pytest.mark.matrix
def test_steps_after_a_resize_wait_no_longer_for_data_than_before(tmp_path: Path) -> None:
    document = job_document(
        model="tests.e2e.tasks:UntilTold",
        config={"folder": str(tmp_path), "seconds": LOAD_SECONDS, "step_seconds": 0.5},
        samples=10**6,
        batch={
            "microBatchSize": 2,
            "initial": 8,
            "max": 16,
            "maxAccumulation": 2,
            "rule": {"name": "Ramp", "stages": [{"samples": 16, "batch": 16}]},
        },
        pods={"min": 1, "max": 2, "workersPerPod": 2},
        scaling={"scaleUpCooldownSeconds": 0},
        training={"loaderProcesses": 2},
    )
    with started(tmp_path / "run", document) as run:
        resized = run.wait_steps(4, workers=4)
        (tmp_path / "stop").touch()
        assert run.end() == 0, run.account()
    steps = run.steps()
    assert samples_in_order(steps)
    before = [row["data_seconds"] for row in steps if row["world_size"] == 2]
    after = [row["data_seconds"] for row in steps if row["round"] == resized["round"]]
    assert max(after) <= max(before[2:]) + TOLERANCE_SECONDS, (before, after)
