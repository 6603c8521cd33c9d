"""Runs whose checkpoints lie in a bucket of a real S3 server, which may be silent or away."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.e2e.records import samples_in_order
from tests.e2e.runs import COMMAND, environment, started
from tests.s3 import BUCKET, S3Server, s3_server
from tests.tasks import job_document

pytestmark = pytest.mark.matrix


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with s3_server(tmp_path) as running:
        yield running


def document(*, pods: int = 1, samples: int = 160) -> dict[str, Any]:
    return job_document(
        config={"step_seconds": 0.05},
        samples=samples,
        pods={"min": pods, "max": pods},
        checkpoint={"path": f"s3://{BUCKET}/run", "everySeconds": 3, "interval": "Measured"},
    )


def test_a_run_goes_on_from_a_bucket_with_another_world_size(
    tmp_path: Path, server: S3Server
) -> None:
    with started(tmp_path / "first", document(pods=2)) as first:
        first.wait(lambda: "latest" in server.keys("run/tiny"), "a checkpoint")
        first.interrupt()
        first.end()
    done = first.steps()[-1]["samples"]
    assert 0 < done < 160
    with started(tmp_path / "second", document()) as second:
        assert second.end() == 0, second.account()
    assert "starting from checkpoint step-" in second.log("tiny-0")
    rows = first.steps() + second.steps()
    assert [row["samples"] for row in rows] == list(range(8, 161, 8))
    output = tmp_path / "model.safetensors"
    source = (f"s3://{BUCKET}/run/tiny", "--format", "safetensors", "--output", str(output))
    export = [*COMMAND[:-1], "export", *source]
    subprocess.run(export, check=True, env=environment(), cwd=tmp_path)
    assert load_file(output)


def test_training_goes_on_while_the_server_is_silent(tmp_path: Path, server: S3Server) -> None:
    with started(tmp_path / "run", document(samples=240)) as run:
        run.wait(lambda: "latest" in server.keys("run/tiny"), "a checkpoint")
        server.hang()
        run.wait_steps(5, after=run.steps()[-1]["time"])
        server.answer()
        assert run.end() == 0, run.account()
    assert samples_in_order(run.steps())
    assert run.discarded() == []
    assert any("step-000000030-" in key for key in server.keys("run/tiny")), "the last one"


def test_a_start_waits_for_a_storage_that_is_away(tmp_path: Path, server: S3Server) -> None:
    server.stop()
    with started(tmp_path / "run", document(samples=40)) as run:
        run.wait(lambda: "cannot be read, trying again" in run.log("tiny-0"), "a try")
        assert run.steps() == []
        server.start()
        assert run.end() == 0, run.account()
    assert run.steps()[-1]["samples"] == 40
    assert "latest" in server.keys("run/tiny")
