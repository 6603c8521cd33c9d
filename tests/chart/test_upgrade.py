"""From the previous release to this one and back, with objects that the previous one has stored."""

import time
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART
from tests.chart.previous import previous_chart, previous_images, previous_release
from tests.chart.release import image_values, released
from tests.chart.stored import RULES, complete_jobs, complete_object, lost
from tests.chart.trainers import growing_job
from tests.cluster.api import Api
from tests.cluster.fixtures import fresh_namespace
from tests.concertina_operator.cluster.installed import GROUP
from tests.e2e.kubelet.runs import Identity, KubeletRun
from tests.e2e.records import samples_in_order
from tests.images.buildkit import buildkit
from tests.images.images import import_image

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(900)]
KINDS = ("adaptivetrainingjobs", "trainingmemberships", "trainingreports")
MOVING = {"managedFields", "resourceVersion"}
LASTING = {"round", "resizes", "startTime", "selector", "worldSize"}
"""Fields of the status of a job whose pods stay the same."""
Stored = dict[str, dict[str, Any]]


@dataclass
class Upgraded:
    """What was seen with the previous release, with this one, and with the previous one again."""

    kept: list[Stored] = field(default_factory=list)
    """Objects that nobody works on."""
    trained: list[Stored] = field(default_factory=list)
    """Those of a job that trains."""
    trainers: list[dict[str, Identity]] = field(default_factory=list)
    images: list[set[str]] = field(default_factory=list)
    """Of the operators."""
    run: KubeletRun | None = None
    state: str = ""


@pytest.fixture(scope="module")
def upgraded(node_cluster, images, tmp_path_factory):
    folder, previous = tmp_path_factory.mktemp("upgrade"), previous_release()
    with buildkit() as builder:
        operator, trainer = previous_images(builder, previous, folder)
    for image in (operator, trainer, images.operator):
        import_image(node_cluster, image)
    chart = previous_chart(previous, folder / "chart")
    definitions = list(yaml.safe_load_all((chart / "files/crd.yaml").read_text()))
    upgraded = Upgraded()
    with (
        fresh_namespace(node_cluster) as kept,
        fresh_namespace(node_cluster) as namespace,
        released(node_cluster, chart=chart) as release,
    ):

        def look() -> None:
            """Once its leader has had its way with the job."""
            release.leader()
            upgraded.run.wait_steps(3, after=time.time())
            upgraded.run.wait(lambda: upgraded.run.status().get("resizes") == 1, "a resize in it")
            upgraded.kept.append(_stored(release.api, kept))
            upgraded.trained.append(_stored(release.api, namespace))
            upgraded.trainers.append(upgraded.run.identities())
            upgraded.images.append(
                {pod["spec"]["containers"][0]["image"] for pod in release.replicas().values()}
            )

        release.install(image_values(operator, trainer))
        _store(release.api, kept, definitions)
        upgraded.run = KubeletRun(
            node_cluster,
            release,
            namespace=namespace,
            folder=folder / "run",
            document=growing_job(trainer, folder / "run"),
        )
        upgraded.run.wait_steps(3, workers=2)
        look()
        release.upgrade(image_values(images.operator, images.trainer), chart=CHART)
        look()
        release.rollback()
        look()
        upgraded.run.finish()
        upgraded.state = upgraded.run.status()["state"]
        upgraded.run.delete()
        yield upgraded
        upgraded.run.api.close()


def _store(api: Api, namespace: str, definitions: list[dict[str, Any]]) -> None:
    """An object of each kind with every field that the previous release knows."""
    jobs, *others = definitions
    made = [*complete_jobs(jobs), *(complete_object(each, name="text") for each in others)]
    for entry in made:
        plural = f"{entry['kind'].lower()}s"
        path = f"{GROUP}/namespaces/{namespace}/{plural}"
        stored = api.create(path, entry, fieldValidation="Strict")
        assert lost(entry["spec"], stored["spec"]) == []
        if status := entry.get("status"):
            told = api.patch(f"{path}/{entry['metadata']['name']}/status", {"status": status})
            assert lost(status, told["status"]) == []


def _stored(api: Api, namespace: str) -> Stored:
    """The objects of a namespace as the API server returns them, without what every write moves."""
    found = {}
    for plural in KINDS:
        for entry in api.list(f"{GROUP}/namespaces/{namespace}/{plural}"):
            metadata = entry["metadata"]
            for moving in MOVING & metadata.keys():
                del metadata[moving]
            found[f"{plural}/{metadata['name']}"] = entry
    return found


def test_the_operators_are_those_of_the_releases_in_turn(upgraded):
    before, after, back = upgraded.images
    assert before == back != after


def test_no_field_of_an_object_that_is_stored_is_lost_or_changed(upgraded):
    before, after, back = upgraded.kept
    assert len(before) == len(RULES) + len(KINDS) - 1
    assert lost(before, after) == []
    assert lost(before, back) == []


def test_what_lasts_of_a_job_that_trains_stays(upgraded):
    before, after, back = (_lasting(stored) for stored in upgraded.trained)
    assert before["status"]["resizes"] == 1
    assert lost(before, after) == []
    assert lost(before, back) == []


def _lasting(stored: Stored) -> dict[str, Any]:
    """What does not move while the same pods train."""
    job, membership = stored["adaptivetrainingjobs/tiny"], stored["trainingmemberships/tiny"]
    reports = {name: entry for name, entry in stored.items() if name.startswith("trainingreports/")}
    return {
        "spec": job["spec"],
        "status": {name: job["status"].get(name) for name in LASTING},
        "members": membership["spec"]["members"],
        "incarnations": {name: report["spec"]["incarnation"] for name, report in reports.items()},
    }


def test_the_trainers_are_the_same_and_lose_no_step(upgraded):
    before, after, back = upgraded.trainers
    assert len(before) == 2
    assert before == after == back
    assert upgraded.run.discarded() == []
    assert samples_in_order(upgraded.run.steps())
    assert upgraded.state == "Completed"
