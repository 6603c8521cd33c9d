"""The life of one run: it grows, loses a worker, loses a pod, lets rank 0 leave, and ends."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from concertina_trainer.agent.metrics import METRICS
from tests.concertina_trainer.agent.pods import scrape
from tests.e2e.records import samples_in_order
from tests.e2e.runs import LocalRun, is_alive, parent_of, started
from tests.ports import free_port
from tests.tasks import job_document

RECOVERY_SECONDS = 60.0
"""A generous limit of the delay between the end of a worker and the next step."""


@dataclass
class Life:
    """What was seen while the run was alive."""

    run: LocalRun
    exit_code: int = -1
    pids: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the pod that leads."""
    metrics_of_follower: dict[str, float] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    discarded: dict[str, int] = field(default_factory=dict)
    orphaned: bool = True
    pause_of_leave: float = 0.0


def document(folder: Path) -> dict[str, Any]:
    return job_document(
        model="tests.e2e.tasks:UntilTold",
        config={"folder": str(folder), "step_seconds": 0.02},
        samples=10**6,
        batch={
            "microBatchSize": 2,
            "initial": 4,
            "max": 8,
            "maxAccumulation": 2,
            "rule": {"name": "Ramp", "stages": [{"samples": 12, "batch": 8}]},
        },
        pods={"min": 1, "max": 2},
        scaling={"scaleUpCooldownSeconds": 0},
        checkpoint={"path": "checkpoints", "everySeconds": 1},
    )


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder = tmp_path_factory.mktemp("life")
    port = free_port(run=3)
    with started(
        folder / "run",
        document(folder),
        "--metrics-port",
        str(port),
        CONCERTINA_LOG_FORMAT="json",
    ) as run:
        life = Life(run)
        _grow(life, port)
        _lose_a_worker(life)
        _lose_a_pod(life)
        _lead_and_leave(life)
        (folder / "stop").touch()
        life.exit_code = run.end()
        yield life


def _grow(life: Life, port: int) -> None:
    run = life.run
    run.wait_steps(workers=1)
    life.pids["first"] = run.worker("tiny-0").pid
    row = run.wait_steps(5, workers=2)
    life.pids["survivor"] = run.worker("tiny-0").pid
    life.metrics = run.wait(
        lambda: m if (m := scrape(port)).get("steps_total", 0) >= row["step"] else None,
        "metrics of 2 workers",
    )
    life.metrics_of_follower = scrape(port + 1)


def _lose_a_worker(life: Life) -> None:
    run = life.run
    agent, lost = run.agent("tiny-1"), run.worker("tiny-1")
    _kill(life, "worker", lost.pid)
    run.wait_steps(3, workers=2, after=time.time())
    assert run.agent("tiny-1") == agent
    assert run.worker("tiny-1").incarnation != lost.incarnation


def _lose_a_pod(life: Life) -> None:
    run = life.run
    worker = run.worker(run.leader())
    _kill(life, "pod", parent_of(worker.pid))
    life.orphaned = is_alive(worker.pid)
    run.wait_steps(3, workers=2, after=time.time())


def _kill(life: Life, what: str, pid: int) -> None:
    """Kill a process; measure the delay until the next step is done."""
    run = life.run
    number, discarded = run.steps()[-1]["round"], len(run.discarded())
    at = time.time()
    os.kill(pid, signal.SIGKILL)
    row = run.wait_round(number + 1)
    life.delays[what] = row["time"] - at
    life.discarded[what] = len(run.discarded()) - discarded


def _lead_and_leave(life: Life) -> None:
    run = life.run
    number, discarded = run.steps()[-1]["round"], len(run.discarded())
    os.kill(run.agent(run.leader()), signal.SIGTERM)
    row = run.wait_round(number + 1)
    life.pause_of_leave = row["pause_seconds"]
    life.discarded["leave"] = len(run.discarded()) - discarded


def test_ends_completed_when_the_task_says_stop(life: Life) -> None:
    summary = life.run.summary()
    assert life.exit_code == 0
    assert summary["outcome"] == "completed"
    assert summary["steps"] == len(life.run.steps())
    assert summary["samples"] == life.run.steps()[-1]["samples"]
    assert (life.run.folder / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_batch_grows_by_its_rule_and_the_workers_after_it(life: Life) -> None:
    steps = life.run.steps()
    assert [row["global_batch_size"] for row in steps[:3]] == [4, 4, 4]
    assert {row["global_batch_size"] for row in steps[4:]} == {8}
    want_sizes = [(1, 2), (2, 1), (1, 2), (2, 1), (1, 2), (2, 1)]
    resizes = life.run.summary()["resizes"]
    assert [(resize["from"], resize["to"]) for resize in resizes] == want_sizes


def test_a_survivor_keeps_its_process(life: Life) -> None:
    assert life.pids["first"] == life.pids["survivor"]


def test_each_sample_counts_exactly_once(life: Life) -> None:
    assert samples_in_order(life.run.steps())
    assert [row["step"] for row in life.run.steps()] == list(range(1, len(life.run.steps()) + 1))


def test_metrics_after_a_resize_are_those_of_the_record(life: Life) -> None:
    metrics = life.metrics
    row = next(row for row in life.run.all_steps() if row["step"] == metrics["steps_total"])
    resize = life.run.summary()["resizes"][0]
    assert metrics["samples_total"] == row["samples"]
    assert metrics["loss"] == pytest.approx(row["loss"], abs=1e-6)
    assert (metrics["world_size"], metrics["round"], metrics["resizes_total"]) == (2, 2, 1)
    assert metrics["global_batch_effective_samples"] == 8
    assert metrics["last_resize_pause_seconds"] == pytest.approx(resize["pause_seconds"], abs=1e-4)
    assert metrics["worker_restarts_total"] == 0
    assert metrics["learning_rate"] == pytest.approx(row["learning_rate"], abs=1e-8)
    assert metrics["gradient_norm"] == pytest.approx(row["gradient_norm"], abs=1e-8)
    assert metrics["accumulation_micro_batches"] == row["num_micro_batches"] / 2
    assert metrics["gradient_variance"] > 0
    of_rules = {"rule_ratio", "rule_threshold", "noise_estimate_age_samples"}
    assert not of_rules & set(metrics)  # a ramp goes by samples alone


def test_tokens_are_those_that_the_task_tells(life: Life) -> None:
    metrics = life.metrics
    assert metrics["tokens_total"] == 12 * metrics["samples_total"]
    assert metrics["tokens_per_second"] == pytest.approx(12 * metrics["samples_per_second"])


def test_checkpoints_of_a_second_are_at_most_some_seconds_old(life: Life) -> None:
    metrics = life.metrics
    assert metrics["checkpoint_interval_seconds"] == 1
    assert 0 <= metrics["checkpoint_age_seconds"] < RECOVERY_SECONDS


def test_a_pod_that_does_not_lead_tells_of_itself_alone(life: Life) -> None:
    gauges = {m.name.removeprefix("concertina_") for m in METRICS if m.type == "gauge"}
    told = gauges & set(life.metrics_of_follower)
    assert told == {"worker_peak_bytes", "worker_state_bytes"}


@pytest.mark.parametrize("lost", ["worker", "pod"])
def test_others_go_on_from_the_last_checkpoint_within_a_bounded_delay(
    life: Life, lost: str, record_property: Callable[[str, object], None]
) -> None:
    record_property(f"seconds from the end of a {lost} to the next step", life.delays[lost])
    assert life.delays[lost] < RECOVERY_SECONDS


def test_steps_after_the_checkpoint_are_marked_and_run_again(life: Life) -> None:
    again = {row["step"] for row in life.run.discarded()}
    assert len(life.run.discarded()) == life.discarded["worker"] + life.discarded["pod"]
    assert life.run.summary()["discarded_steps"] == len(life.run.discarded())
    assert again <= {row["step"] for row in life.run.steps()}


def test_a_worker_dies_with_its_agent(life: Life) -> None:
    assert not life.orphaned


def test_a_leave_loses_no_step_also_of_rank_0(life: Life) -> None:
    assert life.discarded["leave"] == 0
    assert life.pause_of_leave > 0


def test_agent_and_workers_log_objects_that_say_whose_they_are(life: Life) -> None:
    lines = [line.strip() for line in life.run.log("tiny-0").splitlines()]
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    whose = {"namespace": "default", "job": "tiny", "pod": "tiny-0"}
    agent = next(row for row in rows if row["message"].startswith("round 2: 2 member(s)"))
    worker = next(row for row in rows if row["message"].startswith("round 2: 1 -> 2 workers"))

    assert {"time", "level", "logger", "message", *whose} <= set.intersection(*map(set, rows))
    assert agent.items() >= {**whose, "round": 2, "level": "INFO"}.items()
    assert worker.items() >= {**whose, "round": 2, "rank": 0, "level": "INFO"}.items()
    assert not [line for line in lines if " INFO " in line and not line.startswith("{")]
