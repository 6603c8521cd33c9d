import re
import urllib.request

from concertina_api.v1alpha1 import BatchSizeRequest, Progress, Resize
from concertina_trainer.agent.endpoint import serve_endpoint
from concertina_trainer.agent.mailbox import WorkerStatus
from concertina_trainer.agent.metrics import METRICS, PodCollector, Tally
from tests.ports import free_port


def status(incarnation="a", rank=0, step=None, **fields):
    progress = (
        None
        if step is None
        else Progress(
            step=step, samples=8 * step, loss=0.5, global_batch_size=32, world_size=2, round=1
        )
    )
    known = {"local_rank": 0, "pid": 1, "round": 1, "progress": progress}
    return WorkerStatus(**{**known, "incarnation": incarnation, "rank": rank, **fields})


def resize(number, *, before=1, step=0, pause_seconds=0.5):
    return Resize(
        round=number,
        world_size_before=before,
        world_size=2,
        step=step,
        pause_seconds=pause_seconds,
        phases={"exchange": 0.3, "build": 0.2},
    )


def values(tally):
    return {name.removeprefix("concertina_"): value for name, value in tally.reading.values.items()}


def test_counters_are_zero_before_anything_happened():
    assert set(Tally().reading.values.values()) == {0.0}
    assert set(Tally().reading.values) == {m.name for m in METRICS if m.type == "counter"}


def test_counters_go_on_after_workers_were_started_again():
    tally = Tally()
    tally.update([status("a", samples_trained=800, recomputed_micro_batches=3)], restarts=0)
    tally.update([status("a", samples_trained=808, recomputed_micro_batches=3)], restarts=0)
    tally.update([], restarts=1)
    assert values(tally)["samples_total"] == 808
    tally.update([status("b", samples_trained=16, recomputed_micro_batches=1)], restarts=1)

    assert values(tally)["samples_total"] == 824
    assert values(tally)["micro_batches_recomputed_total"] == 4
    assert values(tally)["worker_restarts_total"] == 1


def test_steps_are_those_run_while_this_pod_leads():
    tally = Tally()
    tally.update([status(step=412, acknowledged=resize(1, step=410))], restarts=0)
    assert values(tally)["steps_total"] == 2
    tally.update([status(step=415)], restarts=0)
    tally.update([status(rank=3, step=420)], restarts=0)  # another pod leads now
    tally.update([status(step=430)], restarts=0)  # leads again
    tally.update([status(step=431)], restarts=0)
    assert values(tally)["steps_total"] == 2 + 3 + 1

    tally.update([status(step=400)], restarts=0)  # rolled back to a checkpoint
    tally.update([status(step=405)], restarts=0)
    assert values(tally)["steps_total"] == 6 + 5


def test_a_resize_is_counted_once_and_the_start_is_none():
    tally = Tally()
    for acknowledged in (resize(1, before=0), resize(2), resize(2), resize(5, pause_seconds=1)):
        tally.update([status(acknowledged=acknowledged)], restarts=0)
    tally.update([status("b", acknowledged=resize(5, pause_seconds=1))], restarts=1)

    assert values(tally)["resizes_total"] == 2
    assert values(tally)["resize_pause_seconds_total"] == 1.5
    assert values(tally)["last_resize_pause_seconds"] == 1
    assert tally.reading.phases == {"exchange": 0.3, "build": 0.2}


def test_a_pod_that_does_not_lead_tells_nothing_about_the_job():
    tally = Tally()
    tally.update([status(step=3, state_bytes=5)], restarts=0)
    assert values(tally)["loss"] == 0.5
    assert values(tally)["global_batch_requested_samples"] == 32

    tally.update([status(rank=2, step=4, state_bytes=5)], restarts=0)

    assert not {"loss", "round", "world_size"} & set(values(tally))
    assert values(tally)["worker_state_bytes"] == 5


def test_requested_and_effective_batch_are_two_metrics():
    request = BatchSizeRequest(sequence=1, requested=128, effective=32, reason="max")
    tally = Tally()
    tally.update([status(step=1, request=request)], restarts=0)

    assert values(tally)["global_batch_requested_samples"] == 128
    assert values(tally)["global_batch_effective_samples"] == 32


def test_every_metric_of_the_table_is_served_with_its_type_and_labels():
    tally = Tally()
    progress = Progress(
        step=2, samples=8, loss=1, noise_scale=64, samples_per_second=3, world_size=2, round=1
    )
    everything = {
        "progress": progress,
        "acknowledged": resize(2),
        "step_seconds": 0.1,
        "checkpoint_blocking_seconds": 0.2,
        "state_bytes": 1,
        "peak_bytes": 2,
    }
    tally.update([status(**everything)], restarts=0)
    server = serve_endpoint(
        PodCollector(tally, namespace="lab", job="tiny"), port=free_port(), is_ready=lambda: True
    )
    try:
        port = server.server_address[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            text = response.read().decode()
    finally:
        server.shutdown()
        server.server_close()

    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.type}" in text
        assert re.search(rf'^{metric.name}{{job="tiny",namespace="lab"', text, re.MULTILINE)
    assert 'last_resize_phase_seconds{job="tiny",namespace="lab",phase="build"} 0.2' in text


def test_the_table_follows_the_rules_for_names():
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert re.fullmatch(r"concertina_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.type == "counter")
        assert metric.help.endswith(".")
