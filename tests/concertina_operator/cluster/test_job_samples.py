import ast
from pathlib import Path

import pytest

import concertina_operator
from concertina_api.v1alpha1 import (
    BatchStatus,
    Condition,
    ConditionType,
    FailureCount,
    JobStatus,
    LastResize,
    Offences,
    PodCounts,
    ProgressStatus,
    RecoveryStatus,
    ResizeCount,
    SnapshotStatus,
)
from concertina_operator.cluster.job_samples import (
    PHASES,
    STATES,
    JobView,
    fleet_samples,
    job_samples,
    phase_seconds,
)
from concertina_operator.cluster.metrics_table import JOB_METRICS, OTHER
from concertina_operator.cluster.records import RefusedKind, Use
from concertina_operator.cluster.store import Key
from concertina_trainer.rounds.phases import POINTS
from tests.concertina_operator.factories import at


def a_view(*, name="tiny-lm", status=None, **facts):
    return JobView(key=Key("ml", name), status=status or JobStatus(), now=at(100), **facts)


def found(view):
    """Values by name and the labels beside namespace and job."""
    return {
        (one.name.removeprefix("concertina_job_"), *one.labels[2:]): one.value
        for one in job_samples(view)
    }


def a_condition(kind, *, holds=True, since=40):
    status = "True" if holds else "False"
    return Condition(type=kind, status=status, reason="Why", last_transition_time=at(since))


def test_a_job_that_trains_tells_everything():
    status = JobStatus(
        state="Training",
        gpus=8,
        conditions=(a_condition("Ready"), a_condition("Failed", holds=False)),
        pods=PodCounts(wanted=4, ready=3),
        batch=BatchStatus(requested=96, effective=64),
        progress=ProgressStatus(step=50, samples=640),
        snapshot=SnapshotStatus(step=48, every_steps=16),
        recoveries=RecoveryStatus(count=2, steps_lost=9),
        useful_gpu_seconds=60.0,
        failures=FailureCount(count=1, total=5, infrastructure=4),
        resize_counts=(ResizeCount(direction="Grow", reason="Growing", count=2),),
    )
    view = a_view(
        status=status,
        samples_target=1000,
        gpu_seconds={Use.TRAINING: 70.5, Use.IDLE: 9.5},
        held_gpu_seconds=80.0,
        refusals={RefusedKind.POD: 3},
        report_age_seconds=1.5,
    )
    assert found(view) == {
        ("state", "Training"): 1,
        ("condition", "Ready"): 1,
        ("condition", "Failed"): 0,
        ("pods_wanted",): 4,
        ("pods_ready",): 3,
        ("gpus_held",): 8,
        ("gpu_seconds_total", "training"): 70.5,
        ("gpu_seconds_total", "idle"): 9.5,
        ("useful_gpu_seconds",): 60,
        ("goodput_ratio",): 0.75,
        ("infrastructure_failures_total",): 4,
        ("recoveries_total",): 2,
        ("steps_lost_total",): 9,
        ("avoided_nodes",): 0,
        ("snapshot_age_steps",): 2,
        ("samples",): 640,
        ("samples_target",): 1000,
        ("batch_requested_samples",): 96,
        ("failures_total",): 5,
        ("resizes_total", "Grow", "Growing"): 2,
        ("resizing_seconds",): 0,
        **{("refusals_total", what): 3 if what == "Pod" else 0 for what in RefusedKind},
        ("last_report_age_seconds",): 1.5,
    }
    assert all(one.labels[:2] == ("ml", "tiny-lm") for one in job_samples(view))
    assert {one.name for one in job_samples(view)} == {row.name for row in JOB_METRICS}


def test_what_is_not_known_is_absent_and_not_zero():
    names = {one.name for one in job_samples(a_view())}
    for name in (
        "samples_target",
        "gpu_seconds_total",
        "goodput_ratio",
        "snapshot_age_steps",
        "last_report_age_seconds",
    ):
        assert f"concertina_job_{name}" not in names


@pytest.mark.parametrize(
    ("useful", "want"),
    [
        pytest.param(0.0, 0.0, id="no step yet"),
        pytest.param(40.0, 0.5, id="half of it"),
        pytest.param(80.5, 1.0, id="clocks differ"),
    ],
)
def test_goodput_is_the_useful_share_of_all_gpu_seconds_that_were_held(useful, want):
    view = a_view(status=JobStatus(useful_gpu_seconds=useful), held_gpu_seconds=80.0)
    assert found(view)["goodput_ratio",] == want


@pytest.mark.parametrize(
    ("after", "seconds", "want"),
    [
        pytest.param(3, (50, 60, 70), 1, id="enough within the hour"),
        pytest.param(3, (60, 70), 0, id="too few"),
        pytest.param(3, (-3700, -3650, -3600), 0, id="an hour ago"),
        pytest.param(0, (50, 60, 70), 0, id="never"),
    ],
)
def test_a_node_is_avoided_after_so_many_losses_within_an_hour(after, seconds, want):
    status = JobStatus(
        offences=(
            Offences(node="bad", at=tuple(at(second) for second in seconds)),
            Offences(node="good", at=(at(99),)),
        )
    )
    assert found(a_view(status=status, avoid_node_after=after))["avoided_nodes",] == want


def test_a_job_without_a_complete_snapshot_has_none_of_any_age():
    status = JobStatus(progress=ProgressStatus(step=40), snapshot=SnapshotStatus(every_steps=16))
    assert ("snapshot_age_steps",) not in found(a_view(status=status))


def test_a_snapshot_of_a_step_that_is_not_told_yet_has_no_age():
    status = JobStatus(
        progress=ProgressStatus(step=40), snapshot=SnapshotStatus(step=48, every_steps=16)
    )
    assert found(a_view(status=status))["snapshot_age_steps",] == 0


@pytest.mark.parametrize(
    ("entry", "want"),
    [
        pytest.param(a_condition(ConditionType.RESIZING), 60, id="a round is open"),
        pytest.param(a_condition(ConditionType.RESIZING, holds=False), 0, id="none is open"),
        pytest.param(a_condition(ConditionType.RESIZING, since=101), 0, id="a clock went back"),
    ],
)
def test_an_open_resize_has_an_age(entry, want):
    assert found(a_view(status=JobStatus(conditions=(entry,))))["resizing_seconds",] == want


def test_a_value_that_nobody_knows_of_is_told_as_other():
    counts = tuple(
        ResizeCount(direction="Grow", reason=f"New{number}", count=1) for number in range(30)
    )
    got = found(a_view(status=JobStatus(state="Dreaming", resize_counts=counts)))
    assert got["state", OTHER] == 1
    assert got["resizes_total", "Grow", OTHER] == 30


def test_jobs_are_counted_by_state_and_a_state_without_jobs_is_zero():
    states = ["Training", "Training", "Failed", "Dreaming"]
    views = [a_view(status=JobStatus(state=state)) for state in states]
    counts = {one.labels: one.value for one in fleet_samples(views)}
    want = {("Training",): 2, ("Failed",): 1, (OTHER,): 1}
    assert {labels: count for labels, count in counts.items() if count} == want
    assert [labels for (labels,) in counts] == [*STATES, OTHER]
    assert sum(one.value for one in fleet_samples(())) == 0


def a_resize(**fields):
    defaults = {
        "from_world_size": 1,
        "to_world_size": 2,
        "pause_seconds": 2.0,
        "phases": {"greet": 0.5, "exchange": 0.75},
        "at": at(100),
    }
    return LastResize(**defaults | fields)


@pytest.mark.parametrize(
    ("before", "after", "want"),
    [
        pytest.param(
            JobStatus(),
            JobStatus(last_resize=a_resize(), scaled_at=at(30), round_at=at(90)),
            {"gather": 60, "finish": 8, "greet": 0.5, "exchange": 0.75, OTHER: 0.75},
            id="it grew",
        ),
        pytest.param(
            JobStatus(last_resize=a_resize(at=at(50))),
            JobStatus(last_resize=a_resize(phases={}), scaled_at=at(30), round_at=at(90)),
            {"finish": 8, OTHER: 2},
            id="a loss, the last decision was for the resize before",
        ),
        pytest.param(
            JobStatus(),
            JobStatus(last_resize=a_resize(phases={"greet": 1, "sleep": 1}), round_at=at(99)),
            {"finish": 0, "greet": 1, OTHER: 1},
            id="a phase that nobody knows of",
        ),
        pytest.param(
            JobStatus(last_resize=a_resize()), JobStatus(last_resize=a_resize()), {}, id="known"
        ),
        pytest.param(JobStatus(), JobStatus(), {}, id="none"),
    ],
)
def test_the_phases_of_a_resize_add_up_to_the_whole_of_it(before, after, want):
    assert phase_seconds(before, after) == want


def test_phases_are_named_as_the_trainer_names_them():
    assert ("gather", "finish", *POINTS, OTHER) == PHASES


def test_every_state_that_the_operator_gives_is_known():
    root, states = Path(concertina_operator.__file__).parent, set()
    cluster = (root / "cluster" / name for name in ("reconcile.py", "invalid.py"))
    for path in (*root.glob("*.py"), *cluster):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "state":
                states |= constants(node.value)
            elif isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "state":
                        states |= constants(value)
            elif isinstance(node, ast.FunctionDef) and node.name == "state_of":
                for answer in ast.walk(node):
                    if isinstance(answer, ast.Return) and answer.value is not None:
                        states |= constants(answer.value)
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "state":
                states |= constants(node.value)
    assert states == set(STATES)


def constants(node):
    """Texts that an expression may come to."""
    if isinstance(node, ast.IfExp):
        return constants(node.body) | constants(node.orelse)
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()
