"""The series of a job as a real operator exports them."""

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.api import wait_for
from tests.concertina_operator.cluster.processes import by_leadership
from tests.concertina_operator.cluster.trainers import Trainers, a_trained_job

GREW = (("direction", "Grow"), ("reason", "Growing"))


def series(replica, job="tiny-lm"):
    """Values of a job by name and the labels beside namespace and job."""
    families = text_string_to_metric_families(replica.ask("/metrics"))
    return {
        (
            sample.name.removeprefix("concertina_job_"),
            *sorted(item for item in sample.labels.items() if item[0] not in ("namespace", "job")),
        ): sample.value
        for family in families
        for sample in family.samples
        if sample.labels.get("job") == job
    }


def test_the_leader_tells_of_a_job_the_next_one_goes_on_and_the_series_end_with_the_job(
    start, api, namespace
):
    leader, standby = by_leadership(start("first"), start("second"))
    trainers = Trainers(api=api, namespace=namespace)
    trainers.create(a_trained_job())
    trainers.until_trained_by("tiny-lm-0")
    trainers.imagined.ask(64)
    trainers.until_trained_by("tiny-lm-0", "tiny-lm-1")

    trainers.until(
        lambda: series(leader).get(("resizes_total", *GREW)) == 1, "the resize is not told"
    )
    told = series(leader)
    assert told["state", ("state", "Training")] == 1
    assert told["condition", ("condition", "Ready")] == 1
    assert told["pods_wanted",] == told["pods_ready",] == told["gpus_held",] == 2
    assert told["batch_requested_samples",] == 64
    assert told["samples_target",] == 1_000_000
    assert told["resizing_seconds",] == told["failures_total",] == 0
    assert told["last_report_age_seconds",] < 60
    training = ("gpu_seconds_total", ("use", "training"))
    wait_for(lambda: series(leader)[training] > told[training], lambda: "no GPU second is used")
    assert 'concertina_operator_jobs{state="Training"} 1.0' in leader.ask("/metrics")
    phases = 'concertina_operator_resize_phase_seconds_count{phase="gather"} 1.0'
    assert phases in leader.ask("/metrics")
    assert series(standby) == {}
    assert "concertina_operator_jobs" not in standby.ask("/metrics")

    stored = trainers.status()["gpuSeconds"]
    leader.process.kill()
    wait_for(lambda: series(standby), lambda: f"nothing is told: {standby.log.read_text()}")
    later = series(standby)
    assert later["resizes_total", *GREW] == 1
    assert later[training] + later["gpu_seconds_total", ("use", "idle")] >= stored

    api.delete(f"{trainers.group}/adaptivetrainingjobs/tiny-lm")
    wait_for(lambda: not series(standby), lambda: f"series are left: {series(standby)}")
    assert 'concertina_operator_jobs{state="Training"} 0.0' in standby.ask("/metrics")


def test_what_is_refused_is_counted_by_kind(start, api, namespace):
    leader = start("only")
    quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
    api.create(quotas, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    api.wait(f"{quotas}/none", lambda quota: quota.get("status", {}).get("hard"), "no quota")
    Trainers(api=api, namespace=namespace).create(a_trained_job())
    invalid = a_trained_job("invalid")
    (container,) = invalid["spec"]["pods"]["template"]["spec"]["containers"]
    container["imagee"] = container.pop("image")
    Trainers(api=api, namespace=namespace, job="invalid").create(invalid)

    def counted(job, kind):
        return series(leader, job).get(("refusals_total", ("kind", kind)), 0)

    wait_for(lambda: counted("tiny-lm", "Pod"), lambda: f"no pod: {series(leader)}")
    wait_for(lambda: counted("invalid", "Template"), lambda: f"no template: {series(leader)}")
    assert counted("tiny-lm", "Template") == 0
    assert ("state", ("state", "TemplateInvalid")) in series(leader, "invalid")
