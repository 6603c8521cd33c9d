"""The run's directory."""

import subprocess
import sys
from pathlib import Path

import pytest

from concertina_api.errors import InvalidJob
from concertina_operator.local.directory import open_directory
from concertina_operator.manifest_file import load_job
from tests.concertina_operator.local.processes import a_local_job


def test_a_new_directory_holds_the_job(tmp_path: Path) -> None:
    job = a_local_job()
    with open_directory(tmp_path / "runs" / "tiny", job=job) as directory:
        assert load_job(directory.job).spec == job.spec
        assert directory.report("tiny-0").parent.is_dir()


def test_two_runs_never_share_a_directory(tmp_path: Path) -> None:
    with (
        open_directory(tmp_path, job=a_local_job()),
        pytest.raises(InvalidJob, match=r"in use by process \d+.*--run-dir"),
        open_directory(tmp_path, job=a_local_job()),
    ):
        pass
    with open_directory(tmp_path, job=a_local_job()):
        pass  # free again


@pytest.mark.parametrize(
    ("other", "want_message"),
    [
        pytest.param({"name": "other"}, r"metadata.name is 'tiny' there and 'other'", id="name"),
        pytest.param({"model": "a.b:c"}, r"spec.model is 'some.module:task' there", id="model"),
        pytest.param({"config": {"width": 2}}, r"spec.config", id="config"),
        pytest.param({"seed": 1}, r"spec.seed is 0 there and 1", id="seed"),
        pytest.param(
            {"batch": {"microBatchSize": 8, "initial": 8, "max": 32}},
            r"spec.batch.micro_batch_size is 4 there and 8",
            id="micro-batch",
        ),
    ],
)
def test_refuses_the_directory_of_another_job(
    other: dict[str, object], want_message: str, tmp_path: Path
) -> None:
    with open_directory(tmp_path, job=a_local_job()) as directory:
        before = directory.job.read_bytes()
    with (
        pytest.raises(InvalidJob, match=want_message),
        open_directory(tmp_path, job=a_local_job(**other)),  # type: ignore[arg-type]
    ):
        pass
    assert (tmp_path / "job.yaml").read_bytes() == before


def test_a_longer_run_with_more_pods_is_the_same_job(tmp_path: Path) -> None:
    with open_directory(tmp_path, job=a_local_job()):
        pass
    longer = a_local_job(samples=800, pods={"min": 1, "max": 4})
    with open_directory(tmp_path, job=longer) as directory:
        assert load_job(directory.job).spec.samples == 800


def test_says_that_the_place_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InvalidJob, match="cannot use run directory"),
        open_directory(tmp_path / "file" / "run", job=a_local_job()),
    ):
        pass


def test_a_lock_of_a_dead_shell_is_waited_for(tmp_path: Path) -> None:
    """The sweeper of a killed shell holds the lock until it has swept."""
    with open_directory(tmp_path, job=a_local_job()) as directory:
        # A process that holds the lock for a moment, in the name of a shell that is gone.
        program = "import sys, time; print(1, flush=True); time.sleep(0.5)"
        keeper = subprocess.Popen(
            [sys.executable, "-c", program], pass_fds=[directory.lock], stdout=subprocess.PIPE
        )
        assert keeper.stdout is not None
        keeper.stdout.readline()
    (tmp_path / ".lock").write_text("99999999\n")
    with open_directory(tmp_path, job=a_local_job()):
        assert keeper.wait(10) == 0
    keeper.stdout.close()
