"""Shipped manifests on a real node: image and files are of this machine, all else is as they say."""

import os
import subprocess
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from concertina_api.manifest import job_document
from tests.cluster.components import GPU
from tests.cluster.pods import REPOSITORY
from tests.e2e.kubelet.runs import KubeletRun, applied
from tests.e2e.records import samples_in_order
from tests.e2e.runs import COMMAND

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(600)]

FOLDER = REPOSITORY / "manifests"
SLOW_SECONDS = 240.0
"""Four workers and their loaders start on two cores."""


def document(name: str, **changes: Any) -> dict[str, Any]:
    """The job of a manifest; `changes` replace parts of its spec."""
    found = job_document(list(yaml.safe_load_all((FOLDER / name).read_text())))
    assert isinstance(found, dict)
    return {**found, "spec": {**found["spec"], **changes}}


def its_own(job: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Lays what a manifest says of its pods over those that run on this machine.

    But for the image, and for amounts of memory and CPU that this machine does not have.
    """
    own = job["spec"]["pods"]["template"]["spec"]
    (trainer,) = own["containers"]

    def change(pod: dict[str, Any]) -> None:
        (container,) = pod["containers"]
        gpus = trainer["resources"].get("limits", {}).get(GPU, 0)
        container["resources"] = {"limits": {GPU: str(gpus)}} if gpus else {}
        container["env"] += trainer.get("env", [])
        container["volumeMounts"] += trainer.get("volumeMounts", [])
        if "command" in trainer:
            container["command"] = trainer["command"]
        pod["volumes"] += own.get("volumes", [])
        grace = "terminationGracePeriodSeconds"
        pod[grace] = own.get(grace, pod[grace])

    return change


def concertina(run: KubeletRun, *arguments: str) -> str:
    """What the command prints, asked about the job's namespace."""
    command = [*COMMAND[:-1], *arguments, "--namespace", run.namespace]
    variables = os.environ | {"KUBECONFIG": str(run.cluster.kubeconfig)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_several_gpus_are_as_many_processes_of_one_pod(node_cluster, operator, tmp_path):
    job = document("05-several-gpus.yaml", samples=160)
    with applied(node_cluster, operator, tmp_path / "run", job, change=its_own(job)) as run:
        run.deadline_seconds = SLOW_SECONDS
        run.wait_steps(1, workers=4)
        (pod,) = run.pods().values()
        run.wait_completed()
        steps = run.steps()
    mounted = {each["mountPath"]: each for each in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounted["/dev/shm"]["name"] == "shared-memory"
    assert {row["world_size"] for row in steps} == {4}
    assert samples_in_order(steps)


def test_own_script_comes_to_its_pods_by_a_config_map(node_cluster, operator, tmp_path):
    job = document("07-own-script.yaml", samples=4096)
    with applied(node_cluster, operator, tmp_path / "run", job, change=its_own(job)) as run:
        script = FOLDER / "own_script.py"
        run.kubectl("create", "configmap", "own-script", f"--from-file={script}")
        run.wait_completed()
        steps = run.steps()
    assert samples_in_order(steps)
    assert steps[-1]["samples"] == 4096
    # No model does better on labels that are smoothed: this loop was the script's.
    assert min(row["loss"] for row in steps) > 0.19


@pytest.fixture
def volume(node_cluster, tmp_path):
    """Gives a claim of the manifests a folder of this machine; calls with its namespace and name."""
    made = []

    def give(namespace: str, claim: str) -> Path:
        folder = tmp_path / claim
        folder.mkdir()
        name = f"{namespace}-{claim}"
        spec = {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteMany"],
            "hostPath": {"path": str(folder)},
            "claimRef": {"namespace": namespace, "name": claim},
        }
        claimed = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "50Gi"}}}
        with closing(node_cluster.admin()) as api:
            api.create("/api/v1/persistentvolumes", {"metadata": {"name": name}, "spec": spec})
            made.append(name)
            api.create(
                f"/api/v1/namespaces/{namespace}/persistentvolumeclaims",
                {"metadata": {"name": claim}, "spec": claimed},
            )
        return folder

    yield give
    with closing(node_cluster.admin()) as api:
        for name in made:
            api.delete(f"/api/v1/persistentvolumes/{name}")


def test_suspend_goes_on_at_the_next_sample_whenever_it_is_resumed(
    node_cluster, operator, volume, tmp_path
):
    job = document("08-suspend.yaml")
    with applied(node_cluster, operator, tmp_path / "run", job, change=its_own(job)) as run:
        run.wait_holds("Suspended")
        assert run.pods() == {}
        folder = volume(run.namespace, "queued")
        concertina(run, "resume", "queued")
        run.wait_steps(3)
        assert run.holds("CheckpointDurable")

        concertina(run, "suspend", "queued")
        run.wait(lambda: run.holds("Suspended") and not run.pods(), "suspended, without pods")
        before = run.steps()[-1]
        assert list(folder.rglob("latest"))
        concertina(run, "resume", "queued")
        run.wait_steps(3, after=before["time"])
        steps, discarded = run.steps(), run.discarded()
    assert discarded == []
    assert samples_in_order(steps)
    last, first = next(pair for pair in pairwise(steps) if pair[0]["step"] == before["step"])
    assert first["samples"] - first["global_batch_size"] == last["samples"]
    assert first["round"] > last["round"]
