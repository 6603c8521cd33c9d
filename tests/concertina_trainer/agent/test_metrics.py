import re
import urllib.request
from pathlib import Path

import pytest

from concertina_api.v1alpha1 import BatchSizeRequest, Progress, Resize, SnapshotFacts
from concertina_trainer.agent.endpoint import serve_endpoint
from concertina_trainer.agent.energy import EnergyMeter
from concertina_trainer.agent.mailbox import Measured, WorkerStatus
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


def resize(number, *, before=1, step=0, pause_seconds=0.5, **loss):
    return Resize(
        round=number,
        world_size_before=before,
        world_size=2,
        step=step,
        pause_seconds=pause_seconds,
        phases={"exchange": 0.3, "build": 0.2},
        **loss,
    )


MEASURED = Measured(
    learning_rate=1e-3,
    accumulation_micro_batches=2,
    gradient_norm=1.5,
    gradient_variance=0.25,
    noise_estimate_age_samples=64,
    rule_ratio=1.2,
    rule_threshold=1.4,
)


SNAPSHOT = SnapshotFacts(step=40, every_steps=16, seconds=0.4, cost=0.008, num_bytes=4096)


def collector(tally, **facts):
    return PodCollector(tally, namespace="lab", job="tiny", pod="tiny-0", **facts)


def collected(tally, **facts):
    """Values of all series by name and own label."""
    return {
        (sample.name, *list(sample.labels.values())[2:]): sample.value
        for family in collector(tally, **facts).collect()
        for sample in family.samples
    }


def values(tally):
    return {name.removeprefix("concertina_"): value for name, value in tally.reading.values.items()}


def test_counters_are_zero_before_anything_happened():
    assert set(Tally().reading.values.values()) == {0.0}
    told_by_some = {"concertina_tokens_total", "concertina_device_energy_joules_total"}
    counters = {metric.name for metric in METRICS if metric.type == "counter"}
    assert {name for name, *_ in collected(Tally())} == counters - told_by_some
    assert set(collected(Tally()).values()) == {0.0}


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
    phases = tally.reading.labelled["concertina_last_resize_phase_seconds"]
    assert phases == {"exchange": 0.3, "build": 0.2}


def test_a_pod_that_does_not_lead_tells_nothing_about_the_job():
    tally = Tally()
    told = {
        "measured": MEASURED,
        "safe_at": 5.0,
        "checkpoint_seconds": 1.0,
        "checkpoint_interval_seconds": 600,
        "state_bytes": 5,
        "snapshot": SNAPSHOT,
        "snapshot_at": 5.0,
        "slow": ("tiny-1",),
    }
    gauges = {metric.name for metric in METRICS if metric.type == "gauge"}
    tally.update([status(step=3, tokens_per_sample=4, acknowledged=resize(1), **told)], restarts=0)
    assert values(tally)["loss"] == 0.5
    assert values(tally)["global_batch_requested_samples"] == 32
    assert values(tally)["rule_ratio"] == 1.2

    tally.update([status(rank=2, step=4, acknowledged=resize(1), **told)], restarts=0)

    assert gauges & {name for name, *_ in collected(tally)} == {"concertina_worker_state_bytes"}
    assert values(tally)["worker_state_bytes"] == 5


def test_tokens_are_counted_where_the_task_tells_how_many_a_sample_has():
    tally = Tally()
    tally.update([status("a", samples_trained=0, tokens_per_sample=64)], restarts=0)
    assert "tokens_total" not in values(tally)
    tally.update([status("a", samples_trained=10, tokens_per_sample=64)], restarts=0)
    tally.update([status("b", samples_trained=2, tokens_per_sample=64)], restarts=1)

    assert values(tally)["tokens_total"] == 12 * 64


def test_the_age_of_a_checkpoint_is_that_of_the_scrape():
    tally = Tally()
    tally.update([status(step=1, safe_at=100.0)], restarts=0)

    for now in (100.0, 160.0):
        age = collected(tally, clock=lambda now=now: now)["concertina_checkpoint_age_seconds",]
        assert age == now - 100


def test_an_interval_is_told_while_the_leader_saves_at_intervals():
    tally = Tally()
    tally.update([status(step=1, checkpoint_interval_seconds=600)], restarts=0)
    assert values(tally)["checkpoint_interval_seconds"] == 600

    tally.update([status(step=2, checkpoint_interval_seconds=None)], restarts=0)
    assert "checkpoint_interval_seconds" not in values(tally)


def test_the_age_of_a_snapshot_is_that_of_the_scrape_and_in_steps_that_of_the_newest_step():
    tally = Tally()
    tally.update([status(step=47, snapshot=SNAPSHOT, snapshot_at=100.0)], restarts=0)

    found = collected(tally, clock=lambda: 103.5)
    assert found["concertina_snapshot_age_seconds",] == 3.5
    assert found["concertina_snapshot_age_steps",] == 7
    assert found["concertina_snapshot_interval_steps",] == 16


@pytest.mark.parametrize(
    "snapshot",
    [
        pytest.param(None, id="switched off"),
        pytest.param(SnapshotFacts(off="one pod has no neighbour"), id="one pod"),
        pytest.param(SnapshotFacts(step=40, off="too large"), id="no memory any more"),
    ],
)
def test_without_snapshots_nothing_is_told_of_their_age(snapshot):
    tally = Tally()
    tally.update([status(step=47, snapshot=snapshot, snapshot_at=100.0)], restarts=0)

    gauges = {metric.name for metric in METRICS if metric.type == "gauge"}
    told = gauges & {name for name, *_ in collected(tally)}
    assert [name for name in told if "snapshot" in name] == []


def test_a_leader_whose_first_snapshot_is_not_complete_counts_its_steps_but_knows_no_cost():
    tally = Tally()
    tally.update([status(step=47, snapshot=SnapshotFacts(every_steps=16))], restarts=0)

    assert values(tally)["snapshot_age_steps"] == 47
    assert "snapshot_cost_ratio" not in values(tally)
    assert "concertina_snapshot_age_seconds" not in {name for name, *_ in collected(tally)}


def test_losses_are_counted_over_all_incarnations():
    tally = Tally()
    tally.update([status("a", recoveries={"snapshot": 1}, steps_lost=7)], restarts=0)
    tally.update([status("a", recoveries={"snapshot": 1}, steps_lost=7)], restarts=0)
    tally.update(
        [status("b", steps_lost=3, recoveries={"snapshot": 1, "checkpoint": 1})], restarts=1
    )

    assert values(tally)["steps_lost_total"] == 10
    found = collected(tally)
    assert {
        source: found["concertina_recoveries_total", source]
        for source in ("memory", "snapshot", "checkpoint", "seed")
    } == {"memory": 0, "snapshot": 2, "checkpoint": 1, "seed": 0}


def test_snapshots_are_counted_by_who_leads_when_they_are_taken():
    tally = Tally()
    for rank, taken, failures in ((0, 0, 0), (0, 5, 1), (3, 5, 1), (0, 90, 4), (0, 92, 5)):
        told = status(rank=rank, snapshots_taken=taken, snapshot_failures=failures)
        tally.update([told], restarts=0)
    tally.update([status("b", snapshots_taken=1)], restarts=1)
    tally.update([status("b", snapshots_taken=4)], restarts=1)

    assert values(tally)["snapshots_total"] == 5 + 2 + 3
    assert values(tally)["snapshot_failures_total"] == 1 + 1


def test_checkpoints_that_failed_are_counted_by_who_leads():
    tally = Tally()
    for rank, failures in ((0, 0), (0, 2), (1, 2)):
        tally.update([status(rank=rank, checkpoint_failures=failures)], restarts=0)

    assert values(tally)["checkpoint_failures_total"] == 2


def test_what_the_newest_loss_cost_is_told_until_the_next_one():
    tally = Tally()
    loss = resize(2, pause_seconds=1.5, lost=1, detection_seconds=0.4)
    for acknowledged in (resize(1, before=0), loss, resize(3, pause_seconds=0.1)):
        tally.update([status(acknowledged=acknowledged)], restarts=0)

    assert values(tally)["recovery_seconds"] == 1.5
    assert values(tally)["detection_seconds"] == 0.4
    assert values(tally)["last_resize_pause_seconds"] == 0.1


def test_rollbacks_are_counted_since_this_pod_leads():
    tally = Tally()
    for rollbacks in (3, 3, 4, 0, 1):  # an older state was taken up between
        progress = Progress(step=10, samples=80, rollbacks=rollbacks, round=1)
        tally.update([status(progress=progress)], restarts=0)

    assert values(tally)["rollbacks_total"] == 2


def test_slow_pods_are_counted_by_the_leader():
    tally = Tally()
    tally.update([status(slow=("tiny-1", "tiny-3"))], restarts=0)
    assert values(tally)["slow_pods"] == 2


def test_memory_of_devices_is_that_of_all_workers_of_the_pod():
    tally = Tally()
    workers = [status(local_rank=rank, rank=4 + rank, device_bytes=10) for rank in (0, 1)]
    tally.update(workers, restarts=0)

    assert collected(tally)["concertina_device_memory_bytes", "tiny-0"] == 20


def test_energy_is_what_devices_have_used_since_they_were_first_asked():
    told = {"GPU-a": 1000.0, "GPU-b": 50.0}
    meter = EnergyMeter(told.get)
    assert meter.joules([]) is None
    assert meter.joules(["GPU-a"]) == 0
    told["GPU-a"] = 1100.0
    assert meter.joules(["GPU-a", "GPU-a", "GPU-b"]) == 100
    told |= {"GPU-a": 7.0, "GPU-b": 60.0}  # the driver of one was loaded anew
    assert meter.joules(["GPU-a", "GPU-b"]) == 110
    told["GPU-a"] = 9.0
    assert meter.joules(["GPU-a"]) == 112
    assert meter.joules([]) == 112
    assert EnergyMeter({}.get).joules(["GPU-a"]) is None


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="has a GPU")
def test_without_a_gpu_no_energy_is_told():
    assert EnergyMeter().joules(["GPU-0"]) is None


def test_requested_and_effective_batch_are_two_metrics():
    request = BatchSizeRequest(sequence=1, requested=128, effective=32, reason="max")
    tally = Tally()
    tally.update([status(step=1, request=request)], restarts=0)

    assert values(tally)["global_batch_requested_samples"] == 128
    assert values(tally)["global_batch_effective_samples"] == 32


def test_the_wish_of_a_newer_decision_counts_also_when_it_asked_for_no_workers():
    request = BatchSizeRequest(sequence=1, requested=128, effective=32, reason="max")
    measured = MEASURED.model_copy(update={"global_batch_requested_samples": 48})
    tally = Tally()
    tally.update([status(step=1, request=request, measured=measured)], restarts=0)

    assert values(tally)["global_batch_requested_samples"] == 48


def test_every_metric_of_the_table_is_served_with_its_type_and_labels():
    tally = Tally()
    progress = Progress(
        step=2, samples=8, loss=1, noise_scale=64, samples_per_second=3, world_size=2, round=1
    )
    everything = {
        "progress": progress,
        "acknowledged": resize(2, lost=1, detection_seconds=0.3),
        "snapshot": SNAPSHOT,
        "snapshot_at": 0.0,
        "step_seconds": 0.1,
        "checkpoint_blocking_seconds": 0.2,
        "state_bytes": 1,
        "peak_bytes": 2,
        "measured": MEASURED,
        "samples_trained": 8,
        "tokens_per_sample": 64,
        "safe_at": 0.0,
        "checkpoint_seconds": 0.3,
        "checkpoint_interval_seconds": 600,
        "device": "GPU-a",
        "device_bytes": 3,
    }
    tally.update([status(**everything)], restarts=0)
    meter = EnergyMeter({"GPU-a": 5.0}.get)
    server = serve_endpoint(collector(tally, energy=meter), port=free_port(), is_ready=lambda: True)
    try:
        port = server.server_address[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            text = response.read().decode()
    finally:
        server.shutdown()
        server.server_close()

    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.type}" in text
        shown = ",".join(rf'{label}="[^"]+"' for label in sorted(metric.labels))
        assert re.search(rf"^{metric.name}{{{shown}}} ", text, re.MULTILINE), metric.name
    assert 'last_resize_phase_seconds{job="tiny",namespace="lab",phase="build"} 0.2' in text


def test_the_table_follows_the_rules_for_names():
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert re.fullmatch(r"concertina_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.type == "counter")
        assert metric.help.endswith(".")
        assert metric.labels[:2] == ("namespace", "job")
        assert len(metric.labels) <= 3


def test_what_is_measured_has_the_name_of_its_metric():
    names = {metric.name for metric in METRICS}
    assert {f"concertina_{field}" for field in Measured.model_fields} <= names
