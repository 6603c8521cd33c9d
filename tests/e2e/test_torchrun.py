"""Stock torchrun with our rendezvous and a script that drives the loop: restart mode."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from concertina_api.v1alpha1 import Member, Membership, TrainingMembership
from concertina_trainer.agent.mailbox import put
from tests.e2e.records import DEADLINE_SECONDS, read_rows, samples_in_order
from tests.e2e.runs import environment
from tests.ports import free_port
from tests.tasks import job_document

SCRIPT = Path(__file__).with_name("train.py")


class Job:
    """Pods under torchrun; the test is the operator."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.pods: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = stack
        document = job_document(
            samples=10**6, checkpoint={"path": "checkpoints", "everySeconds": 1}
        )
        (folder / "job.yaml").write_text(yaml.safe_dump(document))

    def start(self, pod: str) -> None:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2"),
            *("--rdzv-backend=concertina", f"--rdzv-endpoint={self.folder / 'membership.json'}"),
            *("--rdzv-id=tiny", f"--rdzv-conf=pod={pod},uid=uid-{pod}"),
            *(str(SCRIPT), str(self.folder)),
        ]
        with self.log(pod).open("wb") as log:
            self.pods[pod] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment()
                | {"CONCERTINA_RUN_DIR": str(self.folder), "TMPDIR": str(self.temporary)},
            )
        self._stack.callback(self.end, pod)

    def publish(self, number: int, *pods: str) -> None:
        members = tuple(
            Member(pod=p, uid=f"uid-{p}", incarnation="i", host="127.0.0.1", port=free_port())
            for p in pods
        )
        membership = Membership(round=number, members=members)
        put(self.folder / "membership.json", TrainingMembership(spec=membership))

    def steps(self) -> list[dict[str, Any]]:
        rows = read_rows(self.folder / "steps.jsonl")
        return [row for row in rows if "loss" in row and not row.get("discarded")]

    def log(self, pod: str) -> Path:
        return self.folder / f"{pod}.log"

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(self.log(pod).read_text()[-6000:] for pod in self.pods)
                raise AssertionError(f"not within {DEADLINE_SECONDS} s: {what}\n{logs}")
            time.sleep(0.02)

    def end(self, pod: str) -> None:
        process = self.pods[pod]
        process.terminate()  # torchrun ends its workers
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with ExitStack() as stack:
        yield Job(tmp_path, stack)


def test_workers_that_are_restarted_go_on_from_the_newest_checkpoint(job: Job) -> None:
    job.start("tiny-0")
    job.start("tiny-1")
    job.publish(1, "tiny-0")
    job.wait((job.folder / "checkpoints" / "latest").exists, "a checkpoint of one worker")

    job.publish(2, "tiny-0", "tiny-1")
    job.wait(lambda: job.steps()[-1]["world_size"] == 2, "a step of two workers")
    (job.folder / "stop").touch()

    for pod in job.pods.values():
        assert pod.wait(DEADLINE_SECONDS) == 0
    reports = job.temporary.glob("concertina-*/worker-0.json")
    assert not [report for report in reports if '"finished":true' in report.read_text()]
    assert samples_in_order(job.steps())
    resumed = next(row for row in job.steps() if row["world_size"] == 2)
    assert resumed["step"] > 1
    assert "starting from checkpoint" in job.log("tiny-0").read_text()
