"""The shell's loop, with agents that count samples instead of training."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import AdaptiveTrainingJob
from concertina_operator.local.directory import open_directory
from concertina_operator.local.display import Display, PlainDisplay, View
from concertina_operator.local.interrupts import Interrupts
from concertina_operator.local.narrate import Line, Topic
from concertina_operator.local.record import Outcome, read_rows, surviving_steps
from concertina_operator.local.shell import Settings, run_job
from tests.concertina_operator.local.processes import FAKE_AGENT, a_local_job, is_alive, wait_until


class Notes:
    """A display that remembers."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.views: list[View] = []
        self.closed = False

    def say(self, line: Line) -> None:
        self.lines.append(line)

    def show(self, view: View) -> None:
        self.views.append(view)

    def close(self) -> None:
        self.closed = True

    def of(self, topic: Topic) -> list[str]:
        return [line.text for line in self.lines if line.topic is topic]


def a_run(
    path: Path,
    job: AdaptiveTrainingJob | None = None,
    *,
    notes: Display | None = None,
    interrupts: Interrupts | None = None,
) -> Outcome:
    job = job or a_local_job()
    with open_directory(path, job=job) as directory:
        return run_job(
            job,
            directory=directory,
            display=notes or Notes(),
            interrupts=interrupts or Interrupts(),
            settings=Settings(agent_command=FAKE_AGENT, grace_seconds=20),
        )


@contextmanager
def in_background(path: Path, **arguments: Any) -> Iterator[list[Outcome]]:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(a_run(path, **arguments)))
    thread.start()
    yield outcomes
    thread.join(60)
    assert not thread.is_alive()


def test_a_run_grows_from_one_worker_to_two_and_completes(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"resizes": [{"from": 1}]}')  # another program's
    notes = Notes()
    assert a_run(tmp_path, a_local_job(samples=4000), notes=notes) is Outcome.COMPLETED

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["outcome"] == "completed"
    assert summary["samples"] >= 4000
    assert [batch["global_batch_size"] for batch in summary["batches"]] == [8, 32]
    assert [(change["from"], change["to"]) for change in summary["resizes"]] == [(1, 2)]
    assert summary["evaluation"][-1]["validation"] == 1.5
    assert notes.closed
    assert [text.split(": ")[1] for text in notes.of(Topic.GROW)] == ["wants 32"]
    assert any(
        "1 -> 2 workers" in text and "exchange 0.20" in text for text in notes.of(Topic.RESIZE)
    )
    last = notes.views[-1]
    assert {pod.name for view in notes.views for pod in view.pods} == {"tiny-0", "tiny-1"}
    assert last.step is not None
    assert last.status.state == "Completed"
    told = (tmp_path / "run.log").read_text()
    assert all(line.text in told for line in notes.lines)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    job = a_local_job(samples=100_000)
    interrupts = Interrupts()
    notes = Notes()
    with in_background(tmp_path, job=job, notes=notes, interrupts=interrupts) as outcomes:
        wait_until(lambda: notes.of(Topic.GROW))
        wait_until(lambda: any(len(view.pods) == 2 for view in notes.views))
        interrupts.request()
    assert outcomes == [Outcome.INTERRUPTED]
    first = json.loads((tmp_path / "summary.json").read_text())
    assert notes.views[-1].stopping
    round_before = json.loads((tmp_path / "membership.json").read_text())["spec"]["round"]

    (tmp_path / "membership.json").unlink()  # as a shell that is killed at its start leaves it
    longer = a_local_job(samples=first["samples"] + 3200)
    again = Notes()
    assert a_run(tmp_path, longer, notes=again) is Outcome.COMPLETED
    assert "-> wants 2 pods" in again.of(Topic.PLAN)[0]  # as the batch had asked for
    # No round is overdue yet, so the first of this shell has its usual time.
    assert again.views[0].status.committed_round == round_before

    steps = surviving_steps(read_rows(tmp_path / "steps.jsonl"))
    assert [row.step for row in steps] == list(range(1, len(steps) + 1))
    second = json.loads((tmp_path / "summary.json").read_text())
    assert len(second["starts"]) == 2
    assert second["wall_seconds"] > first["wall_seconds"]
    assert steps[-1].round > round_before


def test_a_run_whose_reader_has_gone_saves_and_stops(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        assert a_run(tmp_path, a_local_job(samples=100_000), notes=PlainDisplay(output)) is (
            Outcome.INTERRUPTED
        )
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # for what the pipe did not take
    assert json.loads((tmp_path / "summary.json").read_text())["outcome"] == "interrupted"
    assert "stopping: saves a checkpoint" in (tmp_path / "run.log").read_text()


def test_a_second_interrupt_ends_everything_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BEHAVIOUR", "stubborn")
    interrupts = Interrupts()
    worker = tmp_path / "tiny-0.worker"
    with in_background(tmp_path, interrupts=interrupts) as outcomes:
        pid = int(wait_until(lambda: worker.exists() and worker.read_text()))
        interrupts.request()
        interrupts.request()
    assert outcomes == [Outcome.INTERRUPTED]
    assert not is_alive(pid)


def test_files_that_cannot_be_written_end_nothing(tmp_path: Path) -> None:
    for name in ("status.json", "run.log", "summary.json"):
        (tmp_path / name).mkdir()
    # What stands where the membership's temporary file would be cannot be written either.
    obstacle = tmp_path / f".membership.json.{os.getpid()}"
    obstacle.mkdir()
    notes = Notes()
    with in_background(tmp_path, job=a_local_job(samples=4000), notes=notes) as outcomes:
        wait_until(lambda: [text for text in notes.of(Topic.WARNING) if "cannot carry" in text])
        obstacle.rmdir()
    assert outcomes == [Outcome.COMPLETED]
    warnings = [text.split(":")[0] for text in notes.of(Topic.WARNING)]
    for want in ("the status is not stored", "the log of the run lacks lines"):
        assert warnings.count(want) == 1
    assert "the summary is not stored" in warnings


@pytest.mark.parametrize(
    ("behaviour", "want_outcome", "want_code", "want_text"),
    [
        pytest.param(
            "invalid", Outcome.INVALID, 2, "config.width: no such thing", id="users-mistake"
        ),
        pytest.param("fail", Outcome.FAILED, 1, "boom  [31m at step 2", id="crash"),
    ],
)
def test_a_failed_run_says_why(
    behaviour: str,
    want_outcome: Outcome,
    want_code: int,
    want_text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_BEHAVIOUR", behaviour)
    notes = Notes()
    job = a_local_job(failurePolicy={"backoffLimit": 0})
    outcome = a_run(tmp_path, job, notes=notes)
    assert (outcome, outcome.exit_code) == (want_outcome, want_code)
    assert want_text in notes.of(Topic.FAILURE)[0]
    assert json.loads((tmp_path / "summary.json").read_text())["outcome"] == want_outcome.value


@pytest.mark.parametrize(
    ("spec", "want_message"),
    [
        pytest.param(
            {"scaling": {"mode": "Recommend"}}, "scaling.mode is Recommend", id="recommend"
        ),
        pytest.param({"scaling": {"mode": "Off"}}, "scaling.mode is Off", id="off"),
        pytest.param({"suspend": True}, "suspend is true", id="suspended"),
    ],
)
def test_refuses_a_job_that_would_never_start(
    spec: dict[str, Any], want_message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidJob, match=want_message):
        a_run(tmp_path, a_local_job(**spec))
