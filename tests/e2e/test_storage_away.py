"""The storage of checkpoints is away for longer than anything waits for it."""

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import disk
from tests.e2e.records import samples_in_order
from tests.e2e.runs import started
from tests.tasks import job_document

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(900)]

AWAY_SECONDS = 90.0
NUM_STEPS = 600


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    at = tmp_path / "volume"
    try:
        with disk.mounted(tmp_path / "volume.img", at):
            yield at
    except subprocess.CalledProcessError:
        pytest.skip("mounting a disk needs root and a loop device")


def test_training_goes_on_while_the_storage_does_not_answer(tmp_path: Path, volume: Path) -> None:
    document = job_document(
        config={"step_seconds": 0.1},
        samples=8 * NUM_STEPS,
        pods={"min": 2, "max": 2},
        checkpoint={"path": str(volume), "everySeconds": 1},
    )
    with started(tmp_path / "run", document) as run:
        run.deadline_seconds = 300.0
        latest = run.wait(lambda: next(volume.rglob("latest"), None), "a checkpoint")
        with disk.frozen(volume):
            named, row = latest.read_text(), run.steps()[-1]
            run.wait_steps(1, after=row["time"] + AWAY_SECONDS)
            assert latest.read_text() == named
            rows = [each for each in run.steps() if each["time"] > row["time"]]
            pauses = [b["time"] - a["time"] for a, b in itertools.pairwise(rows)]
            assert max(pauses) < AWAY_SECONDS / 3, "steps waited for the storage"
        run.wait(lambda: latest.read_text() != named, "a checkpoint after it")
        assert run.end(seconds=400) == 0, run.account()
    assert samples_in_order(run.steps())
    assert [row["samples"] for row in run.steps()] == list(range(8, 8 * NUM_STEPS + 1, 8))
    assert run.discarded() == []
