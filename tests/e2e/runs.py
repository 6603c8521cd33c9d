"""`concertina run` as a process, and what tests ask about it while it runs and afterwards.

Everything is found as an operator of a machine would find it: by the run's folder and by /proc.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from concertina_api.v1alpha1 import Membership, Report, TrainingMembership, TrainingReport
from concertina_trainer.agent.mailbox import WorkerStatus
from tests.e2e.records import DEADLINE_SECONDS, RecordedRun

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "concertina_operator.cli", "run")
SHORT_GRACE = (sys.executable, "-m", "tests.e2e.shell")


class LocalRun(RecordedRun):
    """One call of `concertina run` in a folder."""

    def __init__(
        self,
        folder: Path,
        document: Mapping[str, Any],
        *arguments: str,
        grace_seconds: int | None = None,
        agent_command: Sequence[str] = (),
        **variables: str,
    ) -> None:
        """`grace_seconds`: between SIGTERM and SIGKILL, unlike those of the command.

        `agent_command`, with these: what is started in the place of the agent.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        manifest = str(folder.with_suffix(".yaml"))
        Path(manifest).write_text(yaml.safe_dump(dict(document)))
        command = (
            (*COMMAND, manifest, "--run-dir", str(folder), *arguments)
            if grace_seconds is None
            else (*SHORT_GRACE, manifest, str(folder), str(grace_seconds), *agent_command)
        )
        self._output = folder.with_suffix(".output")
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment() | variables,
                cwd=folder.parent,
            )

    @property
    def output(self) -> str:
        """What it has printed, all calls with this folder together."""
        return self._output.read_text()

    def end(self, *, seconds: float = DEADLINE_SECONDS) -> int:
        """Wait for the end; the exit code. Nothing of the run may be left."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the run does not end\n{self.account()}") from None
        assert processes_of(self.folder) == []
        return code

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End everything, at the end of a test."""
        self.process.kill()
        self.process.wait()
        for pid in processes_of(self.folder):
            os.kill(pid, signal.SIGKILL)

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_bytes())
        return summary

    # Pods

    def report(self, pod: str) -> Report | None:
        path = self.folder / "reports" / f"{pod}.json"
        try:
            return TrainingReport.model_validate_json(path.read_bytes()).spec
        except FileNotFoundError:
            return None

    def membership(self) -> Membership | None:
        """The newest that the shell has published."""
        try:
            document = (self.folder / "membership.json").read_bytes()
        except FileNotFoundError:
            return None
        return TrainingMembership.model_validate_json(document).spec

    def workers(self) -> dict[str, WorkerStatus]:
        """What the first worker of each pod told last; not those that just start."""
        paths = sorted(self.folder.glob("pods/*/mailbox/worker-0.json"))
        found = {}
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                status = WorkerStatus.model_validate_json(path.read_bytes())
                if is_alive(status.pid):
                    found[path.parts[-3]] = status
        return found

    def agent(self, pod: str) -> int:
        """Process id of the pod's agent: the parent of its worker."""
        return parent_of(self.worker(pod).pid)

    def log(self, pod: str) -> str:
        path = self.folder / "pods" / pod / "agent.log"
        return path.read_text() if path.exists() else ""

    def why_ended(self) -> str | None:
        return None if self.process.poll() is None else "ended"

    def account(self) -> str:
        """All that was printed, for the message of a failure."""
        logs = sorted(self.folder.glob("pods/*/agent.log"))
        return "\n".join([self.output[-4000:], *(f"{p}\n{p.read_text()[-6000:]}" for p in logs)])


@contextmanager
def started(
    folder: Path,
    document: Mapping[str, Any],
    *arguments: str,
    grace_seconds: int | None = None,
    agent_command: Sequence[str] = (),
    **variables: str,
) -> Iterator[LocalRun]:
    """A run that does not outlive its test; `variables` are added to its environment."""
    run = LocalRun(
        folder,
        document,
        *arguments,
        grace_seconds=grace_seconds,
        agent_command=agent_command,
        **variables,
    )
    try:
        yield run
    finally:
        run.kill()


def environment() -> dict[str, str]:
    """With the repository's tests importable, one thread per process, local sockets."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }


def processes_of(folder: Path, *, pod: str | None = None) -> list[int]:
    """Living processes that belong to pods, or to this pod, of the run in `folder`."""
    marks = {f"CONCERTINA_RUN_DIR={folder}".encode()}
    if pod is not None:
        marks.add(f"CONCERTINA_POD={pod}".encode())
    return [pid for pid in _pids() if marks <= set(_environment_of(pid))]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_alive(pid: int) -> bool:
    return bool(_environment_of(pid))


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _environment_of(pid: int) -> list[bytes]:
    """A process that has ended, reaped or not, has no environment."""
    try:
        return [part for part in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if part]
    except OSError:
        return []
