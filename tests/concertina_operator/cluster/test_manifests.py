"""Every shipped manifest as kubectl applies it, under a real operator and a real scheduler.

KWOK's nodes stand for those of a platform, and the test moves the trainers: what the operator makes
of a manifest is looked at, not the training.
"""

from pathlib import Path

import pytest

from concertina_trainer.agent.metrics import METRICS
from tests.cluster.api import has_condition
from tests.cluster.fixtures import fresh_namespace, required_or_skipped
from tests.concertina_operator.cluster.adapter import metrics_adapter
from tests.concertina_operator.cluster.shipped import (
    FOLDER,
    LARGE,
    MANIFESTS,
    SPOT,
    Shipping,
    shipped_nodes,
)

GPU = "nvidia.com/gpu"


@pytest.fixture(scope="module")
def nodes(resources):
    api = resources.admin()
    with shipped_nodes(api):
        yield
    api.close()


@pytest.fixture
def shipping(resources, api, served, nodes):
    made = Shipping(cluster=resources, api=api, namespace=served)
    yield made
    made.clear()


def first_pod(trainers):
    """The first pod once it trains, its spec and its container."""
    trainers.until_trained_by(f"{trainers.job}-0")
    assert trainers.holds("TemplateValid")
    pod = trainers.pods()[f"{trainers.job}-0"]
    (container,) = pod["spec"]["containers"]
    return pod, pod["spec"], container


def mounts_of(container):
    return {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}


def variables_of(container):
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def is_bound(claim):
    return claim.get("status", {}).get("phase") == "Bound"


def test_every_manifest_has_its_test_here():
    here = Path(__file__).read_text()

    assert [name for name in MANIFESTS if f'apply("{name}")' not in here] == []


def test_minimal_has_a_pod_with_one_gpu(shipping):
    _, _, container = first_pod(shipping.apply("01-minimal.yaml"))

    assert container["resources"]["limits"] == {GPU: "1"}
    assert container["command"] == ["python3", "-m", "concertina_trainer.agent"]


def test_llama_reads_tokens_and_writes_checkpoints_on_one_claim(shipping):
    shipping.claim("llama")
    trainers = shipping.apply("02-llama.yaml")
    _, spec, container = first_pod(trainers)

    assert container["workingDir"] == "/workspace"
    assert container["resources"]["limits"] == {GPU: "1", "memory": "32Gi"}
    folders = {mount["mountPath"]: mount.get("subPath") for mount in container["volumeMounts"]}
    assert folders["/workspace/data"] == "data"
    assert folders["/run/concertina/checkpoints"] == "checkpoints"
    assert spec["securityContext"]["fsGroup"] == 65532
    trainers.until(lambda: trainers.holds("CheckpointDurable"), "checkpoints end with the pod")


def test_own_image_brings_its_claim_and_passes_the_restricted_level(shipping, resources, api):
    claim = shipping.give_volume("own-image")
    trainers = shipping.apply("03-own-image.yaml")
    pod, spec, container = first_pod(trainers)

    assert is_bound(api.get(claim))
    assert container["image"] == "registry.example.com/language/trainer:2026.11"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert mounts_of(container)["/checkpoints"] == "checkpoints"
    assert pod["metadata"]["labels"] == {"team": "language", "concertina.dev/job": "own-image"}
    trainers.until(lambda: trainers.holds("CheckpointDurable"), "checkpoints end with the pod")

    with fresh_namespace(resources) as strict:
        enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
        api.patch(f"/api/v1/namespaces/{strict}", {"metadata": {"labels": enforced}})
        unplaced = {key: value for key, value in spec.items() if key != "nodeName"}
        entry = {"metadata": {"name": "own-image-0"}, "spec": unplaced}
        api.create(f"/api/v1/namespaces/{strict}/pods", entry, dryRun="All")


def test_bounded_growth_waits_for_its_cooldown_and_refuses_more_than_its_bounds(shipping, api):
    trainers = shipping.apply("04-bounded-growth.yaml")
    name = trainers.job
    trainers.until_trained_by(f"{name}-0")

    trainers.imagined.ask(32)
    trainers.until_trained_by(f"{name}-0", f"{name}-1")
    trainers.imagined.ask(64)

    def cools_down():
        return trainers.condition("RequestSatisfied").get("reason") == "CoolingDown"

    trainers.until(cools_down, "the third pod does not wait")
    message = trainers.condition("RequestSatisfied")["message"]
    assert "4 pods, but the cooldown of 120 s for scaling up" in message
    assert len(trainers.pods()) == 2

    trainers.imagined.ask(128)
    trainers.until(lambda: "ReportRefused" in trainers.events(), "128 samples are not refused")
    events = f"/apis/events.k8s.io/v1/namespaces/{trainers.namespace}/events"
    notes = [event["note"] for event in api.list(events) if event["reason"] == "ReportRefused"]
    assert any("runs 128 samples, above max 64" in note for note in notes)
    assert trainers.status()["batch"]["effective"] == 64


def test_several_gpus_are_as_many_workers_on_a_node_that_has_them(shipping):
    trainers = shipping.apply("05-several-gpus.yaml")
    _, spec, container = first_pod(trainers)

    assert container["resources"]["limits"] == {GPU: "4", "memory": "128Gi"}
    assert spec["nodeName"] == LARGE
    assert trainers.membership()["spec"]["members"][0]["workers"] == 4
    assert mounts_of(container)["/dev/shm"] == "shared-memory"
    (memory,) = [volume for volume in spec["volumes"] if volume["name"] == "shared-memory"]
    assert memory["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}
    # 32 micro-batches are 2 for each of 16 workers, 8 for each of 4.
    trainers.imagined.ask(128)
    trainers.until_trained_by("several-gpus-0", "several-gpus-1")
    assert trainers.status()["worldSize"] == 8


def test_spot_runs_on_spot_nodes_alone_and_hands_over_within_the_notice(shipping, api, served):
    shipping.claim("spot")
    trainers = shipping.apply("06-spot.yaml")
    pod, spec, container = first_pod(trainers)

    assert spec["nodeName"] == SPOT
    assert spec["terminationGracePeriodSeconds"] == 25
    assert variables_of(container)["CONCERTINA_GRACE_SECONDS"] == "25"
    trainers.until(lambda: trainers.holds("CheckpointDurable"), "checkpoints end with the pod")

    uid = pod["metadata"]["uid"]
    api.delete(f"/api/v1/namespaces/{served}/pods/spot-0")  # what a reclaimed node does to its pods
    trainers.until(
        lambda: uid not in [found["metadata"]["uid"] for found in trainers.pods().values()],
        "the pod does not leave",
    )
    trainers.until(lambda: trainers.imagined.trains, "the pod is not replaced")
    assert trainers.status()["failures"]["count"] == 0


def test_own_script_is_what_the_agent_starts(shipping, api, served):
    script = FOLDER / "own_script.py"
    shipping.kubectl("create", "configmap", "own-script", f"--from-file={script}")
    _, spec, container = first_pod(shipping.apply("07-own-script.yaml"))

    agent = ["python3", "-m", "concertina_trainer.agent"]
    assert container["command"] == [*agent, "/scripts/own_script.py"]
    (mounted,) = [volume for volume in spec["volumes"] if volume["name"] == "scripts"]
    assert mounted["configMap"]["name"] == "own-script"
    stored = api.get(f"/api/v1/namespaces/{served}/configmaps/own-script")
    assert stored["data"] == {"own_script.py": script.read_text()}
    assert mounts_of(container)["/scripts"] == "scripts"
    assert variables_of(container)["PYTHONPATH"] == "/scripts"
    api.delete(f"/api/v1/namespaces/{served}/configmaps/own-script")


def test_suspend_starts_nothing_before_it_is_resumed(shipping):
    shipping.claim("queued")
    trainers = shipping.apply("08-suspend.yaml")

    def is_suspended():
        return trainers.condition("Suspended").get("reason") == "Suspended"

    trainers.until(lambda: trainers.holds("Suspended"), "it is not suspended")
    assert trainers.pods() == {}
    trainers.edit(suspend=False)
    first_pod(trainers)
    trainers.until(lambda: trainers.holds("CheckpointDurable"), "checkpoints end with the pod")
    step = trainers.imagined.step

    trainers.edit(suspend=True)
    trainers.until(lambda: is_suspended() and not trainers.pods(), "not suspended again")
    trainers.edit(suspend=False)
    trainers.until_trained_by("queued-0")
    assert trainers.imagined.step > step


def test_hpa_moves_the_ceiling_by_a_metric_of_concertina(shipping, api, tmp_path):
    """There is no Prometheus here: an adapter of the test's own serves the metric's value."""
    if shipping.cluster.layout is None:
        required_or_skipped("the API server must reach this process: it must be on this machine")
    with metrics_adapter(api, shipping.namespace, tmp_path, value=16) as adapter:
        trainers = shipping.apply("09-hpa.yaml")
        first_pod(trainers)
        job = f"{trainers.group}/adaptivetrainingjobs/hpa"
        scale = api.get(f"{job}/scale")
        assert scale["spec"] == {"replicas": 1}
        assert scale["status"] == {"replicas": 1, "selector": "concertina.dev/job=hpa"}

        trainers.imagined.ask(128)  # needs 8 pods
        reason = "AtMaximum"
        trainers.until(
            lambda: trainers.condition("RequestSatisfied").get("reason") == reason, "no ceiling"
        )
        adapter.value = 5 * 32
        trainers.until(lambda: trainers.find()["spec"]["pods"]["max"] == 5, "it is not moved")
        trainers.until_trained_by(*(f"hpa-{number}" for number in range(4)))  # 5 is not allowed

        shipping.kubectl("apply", "--filename", str(FOLDER / "09-hpa.yaml"))
        assert trainers.find()["spec"]["pods"]["max"] == 5
        autoscaler = api.get(
            f"/apis/autoscaling/v2/namespaces/{trainers.namespace}/horizontalpodautoscalers/hpa"
        )
        for condition in ("AbleToScale", "ScalingActive"):
            assert has_condition(condition)(autoscaler), autoscaler["status"]
    metric = "hpa/concertina_global_batch_requested_samples"
    kind = "adaptivetrainingjobs.concertina.dev"
    assert adapter.asked == {f"namespaces/{trainers.namespace}/{kind}/{metric}"}
    assert metric.partition("/")[2] in [entry.name for entry in METRICS]


def test_digits_trains_without_a_gpu(shipping):
    _, _, container = first_pod(shipping.apply("10-digits.yaml"))

    assert container["resources"] == {"requests": {"cpu": "1", "memory": "1Gi"}}
