import asyncio
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from concertina_api.v1alpha1 import (
    Condition,
    ConditionType,
    Direction,
    JobStatus,
    LastResize,
    ResizeCount,
    SnapshotStatus,
)
from concertina_operator.cluster.facts import HeardReport, read_status
from concertina_operator.cluster.job_views import job_views
from concertina_operator.cluster.metrics import METRICS, Metrics
from concertina_operator.cluster.metrics_table import FLEET_METRICS, JOB_METRICS, PROCESS_METRICS
from concertina_operator.cluster.observe import Watched
from concertina_operator.cluster.pod_facts import OwnedPod
from concertina_operator.cluster.queue import Queue
from concertina_operator.cluster.records import RefusedKind
from concertina_operator.cluster.store import Key
from concertina_operator.rounds import RoundReason
from tests.concertina_operator.factories import (
    START,
    a_pod,
    a_report,
    a_spec,
    at,
)

MOST_SERIES = (
    len([row for row in JOB_METRICS if row.labels == ("namespace", "job")])
    + 1  # state
    + len(ConditionType)
    + 2  # uses of GPUs
    + len(RefusedKind)
    + len(Direction) * (len(RoundReason) + 1)
)
"""Of one job, whatever happens to it."""


class Fleet:
    """Jobs that a process serves, as its stores and records have them. Make it in a loop."""

    def __init__(self):
        self.watched, self.metrics = Watched(Queue()), Metrics()
        self.now, self.loop_time = START, 0.0
        self.metrics.watch_jobs(
            lambda: job_views(
                self.watched, self.metrics.jobs, now=self.now, loop_time=self.loop_time
            )
        )

    def add(self, name, *, namespace="ml", uid="job-uid", spec=None, **status):
        metadata = {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": "1"}
        self.watched.job_there({"metadata": metadata})
        key = Key(namespace, name)
        self.metrics.jobs.planned(
            key, uid=uid, spec=spec or a_spec(), status=JobStatus(**{"state": "Training"} | status)
        )
        return key

    def place(self, job, index=0, **facts):
        name = Key(job.namespace, f"{job.name}-{index}")
        pod = OwnedPod(job=job, owner="job-uid", facts=a_pod(index, **facts))
        self.watched.pods.put(name, pod, version=len(self.watched.pods) + 2)
        self.watched.pod_changed(name, pod)
        return name

    def report(self, pod):
        heard = HeardReport(report=a_report())
        self.watched.reports.put(pod, heard, version=len(self.watched.reports) + 2)
        self.watched.report_changed(pod, heard)

    def series(self):
        """Values by name and labels, in order."""
        families = text_string_to_metric_families(self.metrics.text().decode())
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def of_jobs(self):
        return {name: value for name, value in self.series().items() if "job_" in name[0]}

    def value(self, name, **labels):
        known = {"namespace": "ml", "job": "tiny-lm"} | labels
        return self.series().get((f"concertina_job_{name}", *sorted(known.items())))


def in_a_loop(test):
    """Stores and queues belong to an event loop."""

    def run():
        async def body():
            test(Fleet())

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


READY = Condition(type=ConditionType.READY, status="True", reason="Training")
MANY = tuple(
    ResizeCount(direction=direction, reason=reason, count=1)
    for direction in Direction
    for reason in (*RoundReason, "Strange")
)


def families(text):
    """Type, help and labels of each family, but those of Prometheus' own client."""
    return {
        family.name: family
        for family in text_string_to_metric_families(text)
        if not family.name.startswith("process_")
    }


@in_a_loop
def test_goodput_is_of_all_gpu_seconds_held_up_to_now(fleet):
    fleet.add("tiny-lm", gpus=2, gpu_counted_at=START, gpu_seconds=60.0, useful_gpu_seconds=40.0)
    fleet.now = at(10)
    assert fleet.value("goodput_ratio") == 0.5
    assert fleet.value("useful_gpu_seconds") == 40


@in_a_loop
def test_what_is_exported_is_the_table(fleet):
    job = fleet.add(
        "tiny-lm",
        conditions=(READY,),
        gpu_counted_at=START,
        gpu_seconds=60.0,
        snapshot=SnapshotStatus(step=0, every_steps=16),
        resize_counts=MANY,
    )
    fleet.report(fleet.place(job))
    metrics = fleet.metrics
    metrics.refused(RefusedKind.REPORT, job=job, job_uid="job-uid")
    metrics.answered("GET", 200)
    metrics.reconciles.labels(result="Done").inc()
    resize = LastResize(from_world_size=1, to_world_size=2, at=at(5))
    metrics.resized(JobStatus(), JobStatus(last_resize=resize, round_at=at(1)))
    text = metrics.text().decode()
    found = families(text)
    assert {name: family.type for name, family in found.items()} == {
        row.name.removesuffix("_total"): row.type for row in METRICS
    }
    for row in METRICS:
        family = found[row.name.removesuffix("_total")]
        assert family.documentation == row.help
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(row.labels), sample
    assert re.findall(r"_created[{ ]", text) == []
    assert "process_resident_memory_bytes" in text


def test_the_table_is_one_and_names_tell_units_and_types():
    assert METRICS == PROCESS_METRICS + FLEET_METRICS + JOB_METRICS
    assert len({row.name for row in METRICS}) == len(METRICS)
    for row in METRICS:
        assert row.name.endswith("_total") == (row.type == "counter"), row
        assert re.fullmatch(r"concertina_(operator|job)_[a-z_]+", row.name), row
        if row.unit == "s":
            assert "_seconds" in row.name, row
    assert all(row.labels[:2] == ("namespace", "job") for row in JOB_METRICS)


def test_a_process_that_does_not_lead_exports_nothing_of_jobs():
    metrics = Metrics()
    metrics.jobs.planned(Key("ml", "tiny-lm"), uid="u", spec=a_spec(), status=JobStatus())
    names = set(families(metrics.text().decode()))
    assert names <= {row.name.removesuffix("_total") for row in PROCESS_METRICS}


@in_a_loop
def test_a_leader_without_jobs_tells_that_it_has_none(fleet):
    states = [
        value for name, value in fleet.series().items() if name[0] == "concertina_operator_jobs"
    ]
    assert states
    assert sum(states) == 0


@in_a_loop
def test_a_job_has_a_bounded_number_of_series_whatever_happens_to_it(fleet):
    job = fleet.add("tiny-lm", conditions=(READY,), gpu_counted_at=START, resize_counts=MANY)
    for index in range(50):
        fleet.report(fleet.place(job, index))
    for kind in RefusedKind:
        for _ in range(100):
            fleet.metrics.refused(kind, job=job, job_uid="job-uid")
    assert len(fleet.of_jobs()) <= MOST_SERIES


@in_a_loop
def test_series_end_with_the_job_and_nothing_of_it_is_remembered(fleet):
    jobs = [fleet.add(f"job-{number}", gpu_counted_at=START) for number in range(1000)]
    for job in jobs:
        fleet.report(fleet.place(job))
        fleet.metrics.refused(RefusedKind.POD, job=job, job_uid="job-uid")
    each = len(fleet.of_jobs()) / 1000
    assert each == int(each) <= MOST_SERIES
    for job in jobs[1:]:
        fleet.watched.job_gone(job)
    # The watch has told; the reconciles have yet to come.
    assert len(fleet.of_jobs()) == each
    for job in jobs[1:]:
        fleet.metrics.jobs.forget(job)
    assert len(fleet.metrics.jobs) == 1


@in_a_loop
def test_another_job_of_the_same_name_has_series_of_its_own(fleet):
    job = fleet.add("tiny-lm")
    fleet.metrics.refused(RefusedKind.POD, job=job, job_uid="job-uid")
    assert fleet.value("refusals_total", kind="Pod") == 1
    fleet.watched.job_gone(job)
    fleet.add("tiny-lm", uid="another", state="Starting")
    assert fleet.value("refusals_total", kind="Pod") == 0
    assert fleet.value("state", state="Starting") == 1
    assert fleet.value("state", state="Training") is None


@in_a_loop
def test_gpu_seconds_go_on_while_nothing_is_planned(fleet):
    clock = {"training_gpu_seconds": 60.0, "idle_gpu_seconds": 40.0, "gpu_counted_at": START}
    fleet.add("tiny-lm", conditions=(READY,), gpus=4, world_size=2, **clock)
    fleet.now = at(10)
    assert fleet.value("gpus_held") == 4
    assert fleet.value("gpu_seconds_total", use="training") == 60 + 2 * 10
    assert fleet.value("gpu_seconds_total", use="idle") == 40 + 2 * 10


@in_a_loop
def test_gpu_seconds_that_the_previous_release_counted_are_neither_training_nor_idle(fleet):
    stored = {"state": "Training", "gpuSeconds": 500.0, "gpuCountedAt": START.isoformat()}
    job = fleet.add("tiny-lm")
    status = read_status({"status": stored})
    fleet.metrics.jobs.planned(job, uid="job-uid", spec=a_spec(), status=status)
    fleet.now = at(60)
    assert fleet.value("gpu_seconds_total", use="training") == 0
    assert fleet.value("gpu_seconds_total", use="idle") == 0


@in_a_loop
def test_gpu_seconds_never_fall_when_the_books_say_less_than_was_told(fleet):
    fleet.add("tiny-lm", gpus=1, idle_gpu_seconds=100.0, gpu_counted_at=START)
    fleet.now = at(60)
    assert fleet.value("gpu_seconds_total", use="idle") == 160
    fleet.add("tiny-lm", gpus=1, idle_gpu_seconds=110.0, gpu_counted_at=at(60))
    assert fleet.value("gpu_seconds_total", use="idle") == 160
    fleet.now = at(120)
    assert fleet.value("gpu_seconds_total", use="idle") == 170


@in_a_loop
def test_the_age_of_the_last_report_is_that_of_any_own_pod(fleet):
    job = fleet.add("tiny-lm")
    first, second = fleet.place(job, 0), fleet.place(job, 1)
    assert fleet.value("last_report_age_seconds") is None
    fleet.report(first)
    fleet.report(second)
    fleet.loop_time = asyncio.get_running_loop().time() + 5
    assert fleet.value("last_report_age_seconds") == pytest.approx(5, abs=1)
    for pod in (first, second):
        fleet.watched.reports.remove(pod)
        fleet.watched.report_changed(pod, HeardReport(report=None))
    assert fleet.value("last_report_age_seconds") is None


@in_a_loop
def test_a_job_whose_spec_is_invalid_still_tells_its_state(fleet):
    job = fleet.add("tiny-lm")
    fleet.place(job)
    fleet.metrics.jobs.planned(job, uid="job-uid", spec=None, status=JobStatus(state="Invalid"))
    assert fleet.value("state", state="Invalid") == 1
