"""The contract of the benches: their options and the line of JSON; nothing is measured here."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import figures, schedule, schedule_runs, sides
from tests.bench.bare_client import Writes
from tests.bench.figures import Spread, interval, line, ranged, ratios
from tests.bench.schedule import StepTimes
from tests.bench.schedule_runs import Plan, Run
from tests.cluster.fixtures import obstacle, required_or_skipped
from tests.cluster.layout import Level

FOLDER = Path(__file__).parent
BENCHES = (
    "resize_pause",
    "step_overhead",
    "checkpoint_blocking",
    "schedule",
    "resize_on_kubelet",
    "operator_failover",
    "operator_scale",
    "operator_scale_peer",
    "recovery",
    "goodput",
    "snapshot_overhead",
)
UNIT = StepTimes(micro_batch=1.0, alone=1.0, together=2.0)


@pytest.mark.parametrize("name", BENCHES)
def test_every_bench_is_a_script_with_a_quick_form(name, monkeypatch, capsys):
    module = importlib.import_module(f"tests.bench.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    assert "--quick" in capsys.readouterr().out


def test_a_bench_starts_from_any_folder(tmp_path):
    command = [sys.executable, str(FOLDER / "checkpoint_blocking.py"), "--help"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--rounds" in shown.stdout


def printed_by(name, *arguments):
    """The line of JSON of a bench that needs a control plane."""
    if reason := obstacle(Level.CONTROL_PLANE):
        required_or_skipped(reason)
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--quick", *arguments]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(shown.stdout.splitlines()[-1])


@pytest.mark.matrix
@pytest.mark.cluster
def test_the_operator_serves_jobs_from_their_pods_to_their_growth_beside_the_bare_client():
    printed = printed_by("operator_scale", "--jobs", "4")
    assert printed["case"] == "4 jobs of 8 pods"
    assert printed["ratio"] > 0
    assert printed["start"]["all_created"]["writes"] == [0, 0, 0]
    assert printed["report_to_round_seconds"]["num"] == 4
    assert printed["report_to_pod_seconds"]["num"] == 10


@pytest.mark.cluster
@pytest.mark.matrix
def test_the_operator_serves_jobs_beside_its_peer():
    printed = printed_by("operator_scale_peer", "--jobs", "10")
    assert printed["ratio"] > 0
    assert printed["peer_services_per_pod"][0] > 0.5  # one each; the last ones come later


def test_the_bare_client_writes_for_another_job_what_was_written_for_the_first():
    writes = Writes(name="job-0000", uid="u-0", pods=[], status="", num_statuses=1, events=[])
    text = '{"name": "job-0000-3", "owner": "u-0"}'
    assert (
        writes.of(text, name="job-0042", uid="u-42") == b'{"name": "job-0042-3", "owner": "u-42"}'
    )


def test_the_line_names_the_worst_case_and_holds_the_others():
    cases = {
        "small": Spread(median=12.0, low=10.0, high=13.0),
        "large": Spread(median=6.0, low=5.5, high=7.0),
    }
    printed = line("resize_pause", cases, repeats=5)
    assert "\n" not in printed
    assert json.loads(printed) == {
        "bench": "resize_pause",
        "ratio": 6.0,
        "low": 5.5,
        "high": 7.0,
        "case": "large",
        "cases": {"small": [12.0, 10.0, 13.0], "large": [6.0, 5.5, 7.0]},
        "repeats": 5,
    }


def test_a_ratio_is_above_one_when_the_rival_is_slower():
    assert ratios([4.0, 3.0], [2.0, 1.0]) == [2.0, 3.0]


def test_a_few_values_are_given_with_their_range():
    assert ranged([3.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=3.0)


def test_the_interval_of_many_values_lies_around_the_median_and_repeats():
    values = [1.0 + 0.001 * number for number in range(300)]
    spread = interval(values)
    assert values[0] < spread.low < spread.median < spread.high < values[-1]
    assert spread == interval(values)


def test_the_interval_narrows_with_more_values():
    few = interval([1.0, 2.0] * 10 + [1.5])
    many = interval([1.0, 2.0] * 10 + [1.5] * 200)
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize("study", schedule_runs.STUDIES)
def test_every_schedule_of_a_study_is_a_valid_job(study):
    from concertina_api.manifest import parse_job

    for plan in schedule_runs.plans_of(schedule_runs.STUDIES[study], seeds=1):
        job = parse_job(schedule_runs.manifest(plan))
        assert job.spec.samples == plan.budget
        assert job.spec.batch.micro_batch_size == schedule_runs.MICRO_BATCH


@pytest.mark.parametrize(
    ("batch", "k", "want_seconds", "want_workers"),
    [
        pytest.param(8, 2, 2 + 1, 1, id="one worker does two micro-batches"),
        pytest.param(16, 2, 2 + 2, 2, id="two workers communicate"),
        pytest.param(16, 4, 4 + 1, 1, id="one worker may do four"),
        pytest.param(128, 2, 4 + 2, 8, id="no more workers than there are"),
        pytest.param(24, 2, 2 + 2, 4, id="three workers are not allowed: the next size is"),
    ],
)
def test_a_step_lasts_as_long_as_the_model_says(batch, k, want_seconds, want_workers):
    run = Run(loss=2.0, batches=[(batch, 10)])
    cost = schedule.cost(run, UNIT, max_accumulation=k)
    assert cost.seconds == 10 * want_seconds
    assert cost.worker_seconds == 10 * want_seconds * want_workers


def plan(name, budget):
    return Plan(study="small", schedule=name, budget=budget, seed=0)


def test_time_at_equal_loss_is_interpolated_between_budgets_of_the_rival():
    runs = {
        plan(schedule.RIVAL, 800): Run(loss=3.0, batches=[(8, 100)]),
        plan(schedule.RIVAL, 3200): Run(loss=2.0, batches=[(8, 400)]),
        plan(schedule.OURS, 1600): Run(loss=2.5, batches=[(8, 100)]),
    }
    found = schedule.speedups(runs, schedule.RIVAL, UNIT, max_accumulation=2)
    ((_, pair),) = found.items()
    assert pair["time"].median == pytest.approx(2.0)  # 200 steps against 100


def test_a_loss_that_the_rival_never_reached_gives_no_ratio():
    runs = {
        plan(schedule.RIVAL, 800): Run(loss=3.0, batches=[(8, 100)]),
        plan(schedule.OURS, 1600): Run(loss=1.5, batches=[(8, 100)]),
    }
    assert schedule.speedups(runs, schedule.RIVAL, UNIT, max_accumulation=2) == {}
    printed = json.loads(schedule.report(schedule_runs.STUDIES["small"], runs, UNIT))
    assert (printed["bench"], printed["ratio"]) == ("schedule", 0.0)


def test_a_kept_run_is_found_again_and_another_manifest_is_another_run(tmp_path):
    first = plan("constant 8", 8192)
    path = schedule_runs.kept(tmp_path, first)
    path.write_text(json.dumps({"loss": 2.0, "batches": [[8, 1024]]}))
    assert schedule_runs.all_runs([first], tmp_path, jobs=1) == {
        first: Run(loss=2.0, batches=[(8, 1024)])
    }
    assert schedule_runs.kept(tmp_path, replace(first, seed=1)) != path


def rows_of(*steps, seconds=1.0):
    """One step after another, without a break."""
    return [
        {"step": step, "seconds": seconds, "time": (number + 1) * seconds}
        for number, step in enumerate(steps)
    ]


@pytest.mark.parametrize(
    ("steps", "want_lost"),
    [
        pytest.param((1, 2, 3), 0, id="undisturbed"),
        pytest.param((1, 2, 3, 2, 3, 4), 2, id="back at the state of step 1"),
        pytest.param((1, 2, 1, 2, 3, 3, 4), 3, id="back twice"),
    ],
)
def test_a_step_that_was_run_again_counts_once(steps, want_lost):
    rows = rows_of(*steps)
    assert sides.steps_lost(rows) == want_lost
    kept = [row["step"] for row in sides.surviving(rows)]
    assert kept == sorted(set(steps))


def test_goodput_is_the_share_of_time_in_steps_that_counted():
    rows = rows_of(1, 2, 3, 2, 3)  # two of five seconds were lost, and then nothing was done
    assert sides.goodput(rows, begin=0.0, end=10.0) == pytest.approx(0.3)
    assert sides.goodput(rows, begin=3.5, end=5.0) == pytest.approx(1.0)


def test_figures_are_printed_with_four_digits():
    assert figures.rounded(1234.567) == 1235.0
    assert figures.rounded(0.00123456) == 0.001235
