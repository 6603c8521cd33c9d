"""Agents as processes in a folder like that of `concertina run`, and what tests ask about them."""

import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import yaml

from concertina_api.v1alpha1 import (
    Member,
    Membership,
    PodPhase,
    Report,
    TrainingMembership,
    TrainingReport,
)
from concertina_trainer.agent.mailbox import WorkerStatus, put, worker_file
from tests.worlds import spawn

WORKER = Path(__file__).with_name("worker.py")
DEADLINE_SECONDS = 60.0
T = TypeVar("T")


def job_manifest(*, workers: int = 1) -> dict[str, object]:
    return {
        "apiVersion": "concertina.dev/v1alpha1",
        "kind": "AdaptiveTrainingJob",
        "metadata": {"name": "tiny", "namespace": "lab"},
        "spec": {
            "model": "tests.models:task",
            "samples": 1000,
            "batch": {"microBatchSize": 8, "initial": 16, "max": 64},
            "pods": {"workersPerPod": workers},
        },
    }


class Run:
    """The folder of a run: manifest, membership and pods."""

    def __init__(self, folder: Path, stack: ExitStack, *, workers: int = 1) -> None:
        self.folder = folder
        self.workers = workers
        self.membership = folder / "membership.json"
        self._stack = stack
        folder.joinpath("job.yaml").write_text(yaml.safe_dump(job_manifest(workers=workers)))
        folder.joinpath("reports").mkdir()

    def publish(self, number: int, *members: Member, **fields: object) -> Membership:
        membership = Membership.model_validate(
            {"round": number, "members": members, "leaving": (), **fields}
        )
        put(self.membership, TrainingMembership(spec=membership))
        return membership

    def environment(self, name: str) -> dict[str, str]:
        """What the agent of a pod is told."""
        return {
            "CONCERTINA_JOB": str(self.folder / "job.yaml"),
            "CONCERTINA_POD": name,
            "CONCERTINA_UID": f"uid-{name}",
            "CONCERTINA_MEMBERSHIP": str(self.membership),
            "CONCERTINA_REPORT": str(self._report_file(name)),
            "CONCERTINA_RUN_DIR": str(self.folder),
            "CONCERTINA_GRACE_SECONDS": "60",
        }

    def report(self, name: str) -> Report | None:
        """What the pod tells now."""
        path = self._report_file(name)
        if not path.exists():
            return None
        return TrainingReport.model_validate_json(path.read_bytes()).spec

    def _report_file(self, name: str) -> Path:
        return self.folder / "reports" / f"{name}.json"

    def pod(self, name: str, *program: str, **variables: str) -> "PodProcess":
        """A started agent; it is killed at the end of the test if it still runs."""
        pod = PodProcess(self, name, program, variables)
        self._stack.callback(pod.kill)
        return pod


class PodProcess:
    """One agent and what it and its workers have told."""

    def __init__(
        self, run: Run, name: str, program: tuple[str, ...], variables: Mapping[str, str]
    ) -> None:
        self.run = run
        self.name = name
        self.uid = f"uid-{name}"
        self.folder = run.folder / "pods" / name
        self.folder.mkdir(parents=True)
        self.mailbox = self.folder / "mailbox"
        self.process: BaseProcess = spawn(
            run_agent,
            {**run.environment(name), **variables},
            (str(WORKER), *program),
            str(self.folder / "agent.log"),
        )

    @property
    def report(self) -> Report | None:
        return self.run.report(self.name)

    @property
    def log(self) -> str:
        return (self.folder / "agent.log").read_text()

    def status(self, local_rank: int = 0) -> WorkerStatus | None:
        path = worker_file(self.mailbox, local_rank)
        return WorkerStatus.model_validate_json(path.read_bytes()) if path.exists() else None

    def reports(self, condition: Callable[[Report], bool], what: str) -> Report:
        """The first report that fulfils `condition`."""

        def found() -> Report | None:
            report = self.report
            return report if report is not None and condition(report) else None

        return wait_for(found, lambda: f"{self.name} reports {what}: {self.report}\n{self.log}")

    def warm(self, *, after: str = "") -> Report:
        """The report of warm workers that are not those of incarnation `after`."""
        return self.reports(
            lambda r: r.phase is PodPhase.WARM and r.port is not None and r.incarnation != after,
            "Warm",
        )

    def trains(self, number: int) -> Report:
        return self.reports(
            lambda r: r.phase is PodPhase.TRAINING and r.round == number, f"round {number}"
        )

    def member(self) -> Member:
        """This pod as the operator would name it now."""
        report = self.report
        assert report is not None
        assert report.port is not None
        return Member(
            pod=self.name,
            uid=self.uid,
            incarnation=report.incarnation,
            host="127.0.0.1",
            port=report.port,
            workers=self.run.workers,
        )

    def order(self, text: str, local_rank: int = 0) -> None:
        path = self.mailbox / f"order-{local_rank}"
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").rename(path)

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def exit_code(self) -> int:
        self.process.join(DEADLINE_SECONDS)
        assert self.process.exitcode is not None, f"{self.name} still runs:\n{self.log}"
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def run_agent(environment: Mapping[str, str], program: tuple[str, ...], log: str) -> None:
    """Body of an agent's process: what `python -m concertina_trainer.agent` does."""
    from concertina_trainer.agent.main import main

    send_output_to(log)
    os.environ.update(environment)
    sys.exit(main(program, os.environ))


def send_output_to(log: str) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)


def wait_for(found: Callable[[], T | None], what: Callable[[], str]) -> T:
    """What `found` returns as soon as it is neither None nor False."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (value := found()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {DEADLINE_SECONDS:.0f} s: {what()}")
        time.sleep(0.02)
    return value


def scrape(port: int) -> dict[str, float]:
    """Metrics that an agent serves, without their prefix and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return {
        line.partition("{")[0].removeprefix("concertina_"): float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("concertina_")
    }


def has_ended(pid: int) -> bool:
    """Whether a process is gone or a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"
