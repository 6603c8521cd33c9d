"""A sample that no worker survives."""

import re
from pathlib import Path

import pytest

from concertina_api.v1alpha1 import JobStatus
from tests.e2e.runs import started
from tests.tasks import job_document


@pytest.mark.parametrize(
    "processes",
    [
        pytest.param(0, id="inline"),
        pytest.param(1, id="loader process", marks=pytest.mark.matrix),
    ],
)
def test_a_sample_that_fails_three_times_fails_the_job_and_is_named(
    tmp_path: Path, processes: int
) -> None:
    document = job_document(
        model="tests.e2e.tasks:Unreadable",
        config={"broken": 41, "size": 64},
        training={"loaderProcesses": processes},
        failurePolicy={"backoffLimit": 10},
    )
    with started(tmp_path / "run", document) as run:
        assert run.end() == 1, run.account()
    blamed = re.search(r"sample (\d+): 3 failures, the last: (.*)", run.output)
    assert blamed is not None, run.output
    assert f"sample {blamed[1]} (index 41 of the data set) could not be loaded" in blamed[2]
    status = JobStatus.model_validate_json((run.folder / "status.json").read_bytes())
    failures = status.failures
    assert (failures.count, failures.total, failures.infrastructure) == (3, 3, 0)
    assert failures.traceback.endswith("KeyError: 'no label in record 41'")
    assert 'raise KeyError(f"no label in record {index}")' in failures.traceback
