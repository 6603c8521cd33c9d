"""The status on disk."""

from pathlib import Path

from concertina_api.v1alpha1 import JobStatus
from concertina_operator.local.status_file import StatusFile
from tests.concertina_operator.factories import at


def test_the_status_is_read_by_the_next_shell(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    assert StatusFile(path).read() == JobStatus()
    status = JobStatus(round=3, gpu_seconds=1.5, gpu_counted_at=at(1))
    StatusFile(path).keep(status)
    assert StatusFile(path).read() == status


def test_the_passing_of_time_alone_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    file = StatusFile(path)
    file.keep(JobStatus(round=3, gpu_seconds=1, gpu_counted_at=at(1)))
    path.unlink()
    later = {"gpu_seconds": 3, "training_gpu_seconds": 1, "idle_gpu_seconds": 1}
    file.keep(JobStatus(round=3, gpu_counted_at=at(2), **later))
    assert not path.exists()
    file.keep(JobStatus(round=4, gpu_seconds=2, gpu_counted_at=at(2)))
    assert file.read().round == 4
