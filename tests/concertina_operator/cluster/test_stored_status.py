from datetime import timedelta

import pytest

from concertina_api.v1alpha1 import (
    Condition,
    ConditionType,
    JobStatus,
    LastResize,
    PodCounts,
    ProgressStatus,
    SnapshotStatus,
)
from concertina_operator.cluster.stored_status import (
    COUNTS_INTERVAL,
    PROGRESS_INTERVAL,
    status_patch,
    time_until_worth_it,
)
from tests.concertina_operator.factories import at

READY = Condition(type=ConditionType.READY, status="True", reason="Training", message="round 1")
TAKEN = Condition(
    type=ConditionType.SNAPSHOTS_TAKEN, status="True", reason="Complete", message="at step 10"
)
WRITTEN = JobStatus(
    observed_generation=1,
    conditions=(READY, TAKEN),
    pods=PodCounts(wanted=2, ready=1, running=1),
    progress=ProgressStatus(step=10, samples=320),
    gpu_counted_at=at(0),
    gpu_seconds=4.0,
)


def changed(**fields):
    return WRITTEN.model_copy(update=fields)


def test_progress_is_written_at_once_after_a_leader_whose_clock_is_ahead():
    before = changed(gpu_counted_at=at(3600))
    after = before.model_copy(update={"progress": ProgressStatus(step=11, samples=352)})
    patch = status_patch(before, after)
    wait = time_until_worth_it(patch, before=before, after=after, job_uid="u", now=at(0))
    assert wait == timedelta(0)


def test_the_first_status_is_written_whole_zeros_too():
    patch = status_patch(JobStatus(), JobStatus(state="Starting"))
    assert patch["pods"] == {"wanted": 0, "ready": 0, "running": 0, "outdated": 0}
    assert patch["state"] == "Starting"


def test_a_status_that_says_the_same_needs_no_patch():
    assert status_patch(WRITTEN, WRITTEN) == {}


def test_phases_of_an_earlier_resize_do_not_survive_in_a_later_one():
    before = changed(
        last_resize=LastResize(from_world_size=1, to_world_size=2, phases={"open": 0.1, "load": 3})
    )
    after = changed(
        last_resize=LastResize(from_world_size=2, to_world_size=4, phases={"open": 0.2})
    )
    phases = status_patch(before, after)["lastResize"]["phases"]
    assert phases == {"open": 0.2, "load": None}


@pytest.mark.parametrize(
    ("after", "want_least", "want_most"),
    [
        pytest.param({"state": "Failed"}, timedelta(0), timedelta(0), id="an intention"),
        pytest.param(
            {"pods": PodCounts(wanted=4, ready=1, running=1)},
            timedelta(0),
            timedelta(0),
            id="wanted",
        ),
        pytest.param(
            {"conditions": (READY.model_copy(update={"reason": "Lost"}), TAKEN)},
            timedelta(0),
            timedelta(0),
            id="another reason",
        ),
        pytest.param(
            {"pods": PodCounts(wanted=2, ready=2, running=2)},
            COUNTS_INTERVAL,
            COUNTS_INTERVAL,
            id="counts",
        ),
        pytest.param(
            {"conditions": (READY.model_copy(update={"message": "round 2"}), TAKEN)},
            COUNTS_INTERVAL,
            COUNTS_INTERVAL,
            id="words",
        ),
        pytest.param(
            {"progress": ProgressStatus(step=11, samples=352)},
            PROGRESS_INTERVAL,
            PROGRESS_INTERVAL * 1.25,
            id="progress",
        ),
        pytest.param(
            {
                "snapshot": SnapshotStatus(step=20, every_steps=10),
                "useful_gpu_seconds": 12.5,
                "conditions": (READY, TAKEN.model_copy(update={"message": "at step 20"})),
            },
            PROGRESS_INTERVAL,
            PROGRESS_INTERVAL * 1.25,
            id="a newer snapshot",
        ),
    ],
)
def test_a_patch_waits_as_long_as_nobody_acts_on_it(after, want_least, want_most):
    status = changed(gpu_seconds=5.0, gpu_counted_at=at(1), **after)
    patch = status_patch(WRITTEN, status)
    wait = time_until_worth_it(patch, before=WRITTEN, after=status, job_uid="u", now=at(0))
    assert wait is not None
    assert want_least <= wait <= want_most


def test_the_clock_of_the_gpus_is_never_written_for_itself():
    seconds = {"gpu_seconds": 500.0, "training_gpu_seconds": 90.0, "idle_gpu_seconds": 406.0}
    status = changed(gpus=2, **seconds, gpu_counted_at=at(600))
    patch = status_patch(WRITTEN, status)
    told = {"gpuSeconds", "trainingGpuSeconds", "idleGpuSeconds"}
    assert patch.keys() == {"gpus", *told, "gpuCountedAt"}
    wait = time_until_worth_it(patch, before=WRITTEN, after=status, job_uid="u", now=at(600))
    assert wait is None


def test_jobs_that_started_together_write_their_progress_at_different_times():
    status = changed(progress=ProgressStatus(step=11, samples=352))
    patch = status_patch(WRITTEN, status)
    waits = {
        time_until_worth_it(patch, before=WRITTEN, after=status, job_uid=f"{uid}", now=at(0))
        for uid in range(20)
    }
    assert len(waits) > 10
