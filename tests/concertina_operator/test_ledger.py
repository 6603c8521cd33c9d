import pytest

from concertina_api.v1alpha1 import (
    BatchStatus,
    Condition,
    ConditionType,
    JobStatus,
    ProgressStatus,
    ResizeCount,
)
from concertina_operator import ledger
from concertina_operator.acceptance import Standing
from concertina_operator.observed import Phase
from tests.concertina_operator.factories import (
    a_pod,
    a_report,
    a_request,
    a_spec,
    a_standing,
    at,
)


def a_progress(step, *, number=1, samples=0, **fields):
    return {"step": step, "samples": samples, "round": number} | fields


def an_acknowledgement(number, *, before, after):
    return {
        "round": number,
        "worldSizeBefore": before,
        "worldSize": after,
        "step": 5,
        "pauseSeconds": 0.3,
        "phases": {"greet": 0.1, "exchange": 0.2},
    }


def test_every_pod_that_has_a_report_speaks():
    standings = [a_standing(0), Standing(pod=a_pod(1)), a_standing(2)]
    assert [report.pod for report in ledger.reports_of(standings)] == ["tiny-lm-0", "tiny-lm-2"]


def batch(before, *reports, world_size=2):
    return ledger.batch_status(before, spec=a_spec(), reports=reports, world_size=world_size)


def test_the_newest_request_is_accepted():
    reports = [a_report(0, request=a_request(3)), a_report(1, request=a_request(4, effective=128))]
    got = batch(BatchStatus(effective=64, sequence=2), *reports)
    assert (got.sequence, got.effective, got.accumulation) == (4, 128, 8)


def test_without_a_request_the_last_one_holds_and_at_first_the_initial_batch():
    assert batch(BatchStatus()).effective == 32
    before = BatchStatus(requested=99, effective=64, sequence=2, reason="grown", accumulation=4)
    assert batch(before) == before
    assert batch(before, a_report(request=a_request(1, effective=32))) == before


def test_progress_is_that_of_the_newest_round():
    rolled_back = [
        a_report(0, progress=a_progress(90, number=1)),
        a_report(1, progress=a_progress(70, number=2)),
    ]
    assert ledger.newest_progress(rolled_back).step == 70
    before = ProgressStatus(step=90)
    assert ledger.progress_status(before, spec=a_spec(), reports=(), now=at(0)) == before


def test_the_noise_scale_is_printed_with_the_digits_that_mean_anything():
    report = a_report(progress=a_progress(10, noiseScale=4821.730519))
    got = ledger.progress_status(ProgressStatus(), spec=a_spec(), reports=[report], now=at(0))
    assert got.noise_scale == 4822


@pytest.mark.parametrize(
    ("rate", "want_seconds"), [(None, None), (0.0, None), (1000.0, 60.0), (1e-9, None)]
)
def test_the_end_is_foretold_from_the_present_rate(rate, want_seconds):
    progress = a_progress(10, samples=40_000, samplesPerSecond=rate)
    got = ledger.progress_status(
        ProgressStatus(), spec=a_spec(), reports=[a_report(progress=progress)], now=at(0)
    )
    assert got.finishes_at == (None if want_seconds is None else at(want_seconds))


def test_a_resize_is_counted_when_its_round_is_first_acknowledged():
    report = a_report(acknowledged=an_acknowledgement(2, before=1, after=2))
    before = JobStatus(committed_round=1, resizes=4)
    resize, count = ledger.last_resize(before, reports=[report], reason="it grew", now=at(9))
    assert (resize.from_world_size, resize.to_world_size, count) == (1, 2, 5)
    assert (resize.pause_seconds, resize.reason, resize.at) == (0.3, "it grew", at(9))
    assert ledger.committed_round(1, [report]) == 2
    known = before.model_copy(update={"committed_round": 2, "last_resize": resize})
    assert ledger.last_resize(known, reports=[report], reason="", now=at(10)) == (resize, 4)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 2)])
def test_a_start_and_a_replacement_are_no_resizes(before, after):
    report = a_report(acknowledged=an_acknowledgement(2, before=before, after=after))
    assert ledger.last_resize(JobStatus(), reports=[report], reason="", now=at(0)) == (None, 0)


GREW = ResizeCount(direction="Grow", reason="Growing", count=3)


@pytest.mark.parametrize(
    ("sizes", "reason", "want"),
    [
        pytest.param((0, 2), "Starting", (GREW,), id="a start is none"),
        pytest.param(
            (1, 2), "Growing", (GREW.model_copy(update={"count": 4}),), id="once more of a kind"
        ),
        pytest.param(
            (2, 1),
            "Loss",
            (GREW, ResizeCount(direction="Shrink", reason="Loss", count=1)),
            id="the first of a kind",
        ),
        pytest.param(
            (2, 2),
            "Loss",
            (GREW, ResizeCount(direction="Replace", reason="Loss", count=1)),
            id="a replacement",
        ),
    ],
)
def test_resizes_are_counted_by_direction_and_reason_once_for_each_round(sizes, reason, want):
    report = a_report(acknowledged=an_acknowledgement(2, before=sizes[0], after=sizes[1]))
    before = JobStatus(committed_round=1, resize_counts=(GREW,))
    got = ledger.resize_counts(before, reports=[report], reason=reason)
    assert got == want
    known = before.model_copy(update={"committed_round": 2, "resize_counts": got})
    assert ledger.resize_counts(known, reports=[report], reason=reason) == want


def test_gpus_are_held_by_pods_that_have_a_node_and_run():
    pods = [
        a_pod(0),
        a_pod(1, exit_code=0, phase=Phase.SUCCEEDED),
        a_pod(2, placed=False, phase=Phase.PENDING),
        a_pod(3),
    ]
    assert ledger.gpus_held(pods, workers_per_pod=4) == 8


def a_status(*, is_ready=True, **fields):
    ready = Condition(
        type=ConditionType.READY, status="True" if is_ready else "False", reason="Training"
    )
    defaults = {
        "gpus": 8,
        "gpu_seconds": 100.0,
        "training_gpu_seconds": 60.0,
        "idle_gpu_seconds": 30.0,
    }
    return JobStatus(conditions=(ready,), **defaults | {"gpu_counted_at": at(0)} | fields)


@pytest.mark.parametrize(
    ("before", "want", "want_training", "want_idle"),
    [
        pytest.param(a_status(world_size=8), 140, 100, 30, id="all train"),
        pytest.param(a_status(world_size=4), 140, 80, 50, id="one pod is only being started"),
        pytest.param(a_status(world_size=16), 140, 100, 30, id="a member is gone"),
        pytest.param(a_status(world_size=8, is_ready=False), 140, 60, 70, id="no round trains"),
        pytest.param(a_status(world_size=8, gpus=0), 100, 60, 30, id="none is held"),
        pytest.param(a_status(gpu_counted_at=None), 100, 60, 30, id="nothing was counted before"),
        pytest.param(a_status(gpu_counted_at=at(9)), 100, 60, 30, id="a clock went back"),
        pytest.param(
            JobStatus.model_validate({"gpuSeconds": 100.0, "gpuCountedAt": at(0)}),
            100,
            0,
            0,
            id="counted by an operator that did not tell them apart",
        ),
    ],
)
def test_gpu_seconds_are_used_by_members_of_a_round_that_trains_and_else_held_idle(
    before, want, want_training, want_idle
):
    assert ledger.gpu_seconds(before, now=at(5)) == want
    assert ledger.training_gpu_seconds(before, now=at(5)) == want_training
    assert ledger.idle_gpu_seconds(before, now=at(5)) == want_idle


def test_active_time_is_what_was_before_plus_the_present_stretch():
    status = JobStatus(active_seconds=30.0, active_since=at(100))
    assert ledger.active_time(status, now=at(110)).total_seconds() == 40
    paused = JobStatus(active_seconds=30.0)
    assert ledger.active_time(paused, now=at(110)).total_seconds() == 30
