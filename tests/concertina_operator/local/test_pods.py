"""Pods as processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from concertina_api.errors import ConcertinaError
from concertina_operator.local.directory import RunDirectory, open_directory
from concertina_operator.local.pods import LocalPods
from concertina_operator.observed import Phase
from tests.concertina_operator.local.processes import (
    FAKE_AGENT,
    a_local_job,
    is_alive,
    wait_until,
)

SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")
PRINTER = (
    sys.executable,
    "-c",
    "import os; print({k: v for k, v in os.environ.items() if 'CONCERTINA' in k})",
)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    with open_directory(tmp_path, job=a_local_job()) as opened:
        yield opened


def test_a_pod_is_created_once_and_runs(directory: RunDirectory) -> None:
    with LocalPods(directory, agent_command=SLEEPER) as pods:
        pods.create("tiny-0")
        first = pods.facts()
        pods.create("tiny-0")
        assert pods.facts() == first
        assert [(pod.name, pod.phase, pod.deleting) for pod in first] == [
            ("tiny-0", Phase.RUNNING, False)
        ]


def test_a_deleted_pod_ends_and_is_forgotten(directory: RunDirectory) -> None:
    with LocalPods(directory, agent_command=SLEEPER) as pods:
        pods.create("tiny-0")
        (pod,) = pods.facts()
        pods.delete("tiny-0", uid="another-uid")
        assert pods.facts() == (pod,)

        pods.delete("tiny-0", uid=pod.uid)
        wait_until(lambda: not pods.facts())
        pods.delete("tiny-0", uid=pod.uid)  # gone already

        pods.create("tiny-0")
        (again,) = pods.facts()
        assert again.uid != pod.uid


@pytest.mark.parametrize(
    ("program", "want_phase", "want_code"),
    [
        pytest.param("pass", Phase.SUCCEEDED, 0, id="success"),
        pytest.param("raise SystemExit(3)", Phase.FAILED, 3, id="failure"),
        pytest.param(
            "import os; os.kill(os.getpid(), 9)", Phase.FAILED, -signal.SIGKILL, id="killed"
        ),
    ],
)
def test_an_ended_pod_stays_with_its_outcome(
    program: str, want_phase: Phase, want_code: int, directory: RunDirectory
) -> None:
    with LocalPods(directory, agent_command=(sys.executable, "-c", program)) as pods:
        pods.create("tiny-0")
        wait_until(lambda: pods.facts()[0].ended)
        (pod,) = pods.facts()
        assert (pod.phase, pod.exit_code) == (want_phase, want_code)
        pods.delete("tiny-0", uid=pod.uid)
        assert pods.facts() == ()


def test_an_agent_is_told_where_everything_is(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONCERTINA_REQUIRE_CLUSTER", raising=False)
    with LocalPods(directory, agent_command=PRINTER, metrics_port=9100) as pods:
        pods.create("tiny-1")
        wait_until(lambda: pods.facts()[0].ended)
        uid = pods.facts()[0].uid
        told = eval(pods.log_file("tiny-1").read_text())
    del told["CONCERTINA_SHELL"]
    assert told == {
        "CONCERTINA_JOB": str(directory.job),
        "CONCERTINA_POD": "tiny-1",
        "CONCERTINA_UID": uid,
        "CONCERTINA_MEMBERSHIP": str(directory.membership),
        "CONCERTINA_REPORT": str(directory.report("tiny-1")),
        "CONCERTINA_HOST": "127.0.0.1",
        "CONCERTINA_METRICS_PORT": "9100",
        "CONCERTINA_RUN_DIR": str(directory.path),
        "CONCERTINA_GRACE_SECONDS": "120",
    }


def test_a_replacement_serves_metrics_where_the_ended_pod_did(directory: RunDirectory) -> None:
    # It runs until its folder holds the file "end", and prints its port.
    program = (
        "import os, pathlib, time; print(os.environ['CONCERTINA_METRICS_PORT'], flush=True)\n"
        f"folder = pathlib.Path({str(directory.pod('x').parent)!r}, os.environ['CONCERTINA_POD'])\n"
        "while not (folder / 'end').exists(): time.sleep(0.02)"
    )
    command = (sys.executable, "-c", program)
    with LocalPods(directory, agent_command=command, metrics_port=9100) as pods:
        for name in ("tiny-0", "tiny-1"):
            pods.create(name)
        (directory.pod("tiny-0") / "end").touch()
        wait_until(lambda: pods.facts()[0].ended)
        pods.create("tiny-2")
        told = [wait_until(pods.log_file(f"tiny-{index}").read_text) for index in range(3)]
    assert told == ["9100\n", "9101\n", "9100\n"]


def test_the_grace_over_agent_and_worker_are_killed(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BEHAVIOUR", "stubborn")
    with LocalPods(directory, agent_command=FAKE_AGENT, grace_seconds=1) as pods:
        pods.create("tiny-0")
        worker = _worker_pid(directory)
        pods.delete("tiny-0", uid=pods.facts()[0].uid)
        assert pods.facts()[0].deleting
        assert is_alive(worker)
        wait_until(lambda: not pods.facts())
        assert not is_alive(worker)


def test_workers_end_with_their_agent(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BEHAVIOUR", "stubborn")
    with LocalPods(directory, agent_command=FAKE_AGENT) as pods:
        pods.create("tiny-0")
        worker = _worker_pid(directory)
        os.kill(_parent(worker), signal.SIGKILL)
        wait_until(lambda: pods.facts()[0].ended)
        assert not is_alive(worker)


def test_leaving_the_context_leaves_no_process(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BEHAVIOUR", "stubborn")
    with LocalPods(directory, agent_command=FAKE_AGENT) as pods:
        pods.create("tiny-0")
        worker = _worker_pid(directory)
        agent = _parent(worker)
    assert not is_alive(worker)
    assert not is_alive(agent)


SHELL = """
import sys
from pathlib import Path
from concertina_operator.local.directory import open_directory
from concertina_operator.local.pods import LocalPods
from concertina_operator.manifest_file import load_job
path = Path(sys.argv[1])
with (
    open_directory(path, job=load_job(path / "job.yaml")) as directory,
    LocalPods(directory, agent_command=sys.argv[2:]) as pods,
):
    pods.create("tiny-0")
    sys.stdin.read()
"""


def test_a_shell_that_is_killed_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BEHAVIOUR", "stubborn")
    with open_directory(tmp_path, job=a_local_job()) as directory:
        pass
    shell = subprocess.Popen(
        [sys.executable, "-c", SHELL, str(tmp_path), *FAKE_AGENT], stdin=subprocess.PIPE
    )
    assert shell.stdin is not None
    worker = _worker_pid(directory)
    agent = _parent(worker)

    shell.kill()
    shell.wait()
    shell.stdin.close()

    # The directory is free again only when everything of the dead shell is gone.
    with open_directory(tmp_path, job=a_local_job()):
        assert not is_alive(worker)
        assert not is_alive(agent)


def test_says_that_the_agent_cannot_be_started(directory: RunDirectory) -> None:
    with (
        LocalPods(directory, agent_command=("/nowhere/agent",)) as pods,
        pytest.raises(ConcertinaError, match="cannot start the agent /nowhere/agent: No such file"),
    ):
        pods.create("tiny-0")


def _worker_pid(directory: RunDirectory) -> int:
    path = directory.path / "tiny-0.worker"
    return int(wait_until(lambda: path.exists() and path.read_text()))


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
