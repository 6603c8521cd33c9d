"""A run of one worker: nobody else holds its state."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.records import samples_in_order
from tests.e2e.runs import started
from tests.tasks import job_document

pytestmark = pytest.mark.matrix


def test_a_worker_that_is_killed_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    document = job_document(
        config={"step_seconds": 0.05},
        samples=400,
        checkpoint={"path": "checkpoints", "everySeconds": 1},
    )
    with started(tmp_path / "run", document) as run:
        run.wait((run.folder / "checkpoints" / "latest").exists, "a checkpoint")
        worker = run.worker("tiny-0")
        os.kill(worker.pid, signal.SIGKILL)
        assert run.end() == 0, run.account()
    assert samples_in_order(run.steps())
    assert run.steps()[-1]["samples"] == 400
    assert run.summary()["discarded_steps"] == len(run.discarded())
    assert "starting from checkpoint" in run.log("tiny-0")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, smaller than a checkpoint."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_training_goes_on_while_the_disk_of_checkpoints_is_full(
    tmp_path: Path, small_disk: Path
) -> None:
    document = job_document(
        config={"step_seconds": 0.05},
        samples=200,
        checkpoint={"path": str(small_disk), "everySeconds": 1},
    )
    with started(tmp_path / "run", document) as run:
        run.wait(lambda: "No space left on device" in run.log("tiny-0"), "a save that fails")
        row = run.steps()[-1]
        run.wait_steps(3, after=row["time"])
        assert list(small_disk.rglob("latest")) == []
        remount = ["mount", "-o", "remount,size=64m", str(small_disk)]
        subprocess.run(remount, check=True)
        assert run.end() == 0, run.account()
    assert [row["samples"] for row in run.steps()] == list(range(8, 201, 8))
    assert run.discarded() == []
    assert len(list(small_disk.rglob("latest"))) == 1
