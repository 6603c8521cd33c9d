"""One release on a real node from its installation to its end, and a job that trains through it.

Helm, the images, the chart, Prometheus: all of it is real. The story is told once; the tests look
at what was seen. An installation is one per cluster: nothing of it is left when they have run.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from concertina_operator.cluster import paths
from concertina_operator.cluster.rights import OPERATOR
from tests.chart.helm import HelmFailure, render
from tests.chart.release import Release, image_values, monitoring_kinds, released
from tests.chart.trainers import growing_job, waiting_job
from tests.cluster.api import has_condition
from tests.cluster.fixtures import fresh_namespace, required_or_skipped
from tests.e2e.kubelet.audited import granted, not_granted, unused, used
from tests.e2e.kubelet.runs import Identity, KubeletRun
from tests.e2e.records import samples_in_order
from tests.images.images import Images, import_image, torch_template
from tests.monitoring.checks import wait_no_empty_queries
from tests.monitoring.prometheus import Prometheus, started
from tests.monitoring.rules import read_rules, shortened
from tests.monitoring.scrape import scrape_configs

pytestmark = pytest.mark.timeout(600)
TEST = f"{OPERATOR}-test"
"""The account of the pod that `helm test` runs."""
PATIENCE_SECONDS = 5
"""Of each alert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What was seen after a phase."""

    seconds: float
    """That it took."""
    steps: int
    """That had been taken when it was over."""
    replicas: frozenset[str]
    trainers: dict[str, Identity]
    said: str = ""
    """What Helm printed."""


@dataclass
class Story:
    """What was seen of a release and of its job."""

    release: Release
    run: KubeletRun | None = None
    moments: dict[str, Moment] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[list[str]]:
        """A phase of the story; its words are put into the list."""
        words: list[str] = []
        began = time.monotonic()
        yield words
        self.moments[name] = Moment(
            seconds=time.monotonic() - began,
            steps=len(self.run.steps()) if self.run else 0,
            replicas=frozenset(self.release.replicas()),
            trainers=self.run.identities() if self.run else {},
            said="".join(words),
        )
        print(f"{name}: {self.moments[name].seconds:.1f} s")


@pytest.fixture(scope="module")
def story(node_cluster, images, tmp_path_factory):
    if node_cluster.layout is None:
        required_or_skipped("images are given to the node of this machine")
    folder = tmp_path_factory.mktemp("release")
    with (
        monitoring_kinds(node_cluster),
        fresh_namespace(node_cluster) as namespace,
        released(node_cluster) as release,
    ):
        story = Story(release)
        values = _values(images, namespace)
        story.facts["objects"] = render(values, namespace=release.namespace)
        _install(story, images, values)
        with _prometheus(release, folder / "prometheus") as prometheus:
            _train(story, growing_job(images.trainer, folder / "run"), namespace, folder / "run")
            _watch(story, prometheus, waiting_job(images.trainer))
        _upgrade_and_back(story, values)
        _test(story)
        _uninstall_and_install(story, values)
        with story.phase("remove"):
            story.run.delete()
            release.remove()
            story.run.api.close()
        yield story


def _values(images: Images, namespace: str) -> dict[str, Any]:
    """What an administrator says: where the images are, what is watched, what `helm test` trains."""
    watched = ("operatorMonitor", "trainerMonitor", "rules", "dashboards")
    pods = {"template": torch_template(images.trainer, gpus=0)}
    return {
        **image_values(images.operator, images.trainer),
        "monitoring": {name: {"enabled": True} for name in watched},
        "test": {"namespace": namespace, "spec": {"pods": pods}},
    }


@contextmanager
def _prometheus(release: Release, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus of the release's monitors, and of alerts that wait for nothing long."""
    configs = scrape_configs(release.objects(), kubeconfig=release.cluster.kubeconfig)
    rules = shortened(read_rules(), seconds=PATIENCE_SECONDS)
    with started(folder, configs, rules=rules) as prometheus:
        yield prometheus


def _install(story: Story, images: Images, values: dict[str, Any]) -> None:
    with story.phase("import"):
        for image in (images.operator, images.trainer):
            import_image(story.release.cluster, image)
    with story.phase("install") as words:
        words.append(story.release.install(values))
        story.facts["ready"] = [
            name for name, pod in story.release.replicas().items() if has_condition("Ready")(pod)
        ]


def _train(story: Story, document: dict[str, Any], namespace: str, folder: Path) -> None:
    release = story.release
    with story.phase("train"):
        story.run = KubeletRun(
            release.cluster, release, namespace=namespace, folder=folder, document=document
        )
        story.run.wait_steps(3, workers=2)


def _watch(story: Story, prometheus: Prometheus, waiting: dict[str, Any]) -> None:
    release, run = story.release, story.run
    with story.phase("scrape"):
        prometheus.wait_up(namespace=release.namespace, job=OPERATOR, count=2)
        prometheus.wait_up(namespace=run.namespace, job=run.name, count=2)
    with story.phase("alert"):
        name = waiting["metadata"]["name"]
        run.api.create(paths.jobs(run.namespace), waiting)
        story.facts["alert"] = prometheus.wait_firing(
            "ConcertinaPodsPending", namespace=run.namespace, job=name
        )
        run.api.delete(paths.jobs(run.namespace, name))
    with story.phase("dashboards"):
        wait_no_empty_queries(prometheus, namespace=run.namespace, job=run.name)


def _upgrade_and_back(story: Story, values: dict[str, Any]) -> None:
    release = story.release
    with story.phase("misspelt"):
        before = release.revision()
        with pytest.raises(HelmFailure) as refused:
            release.upgrade(values | {"replica": 3})
        story.facts["misspelt"] = str(refused.value)
        story.facts["revisions"] = before, release.revision()
    with story.phase("upgrade") as words:
        words.append(release.upgrade(values | {"logLevel": "DEBUG"}))
        release.leader()
    with story.phase("rollback") as words:
        words.append(release.rollback())
        release.leader()


def _test(story: Story) -> None:
    with story.phase("test") as words:
        words.append(story.release.test())


def _uninstall_and_install(story: Story, values: dict[str, Any]) -> None:
    release, run = story.release, story.run
    with story.phase("uninstall") as words:
        words.append(release.uninstall())
        run.wait_steps(3, after=time.time())
    with story.phase("install again") as words:
        words.append(release.install(values))
        release.leader()
    with story.phase("complete"):
        run.finish()
        story.facts["status"] = run.status()


def test_both_operators_are_ready_under_the_restricted_level(story):
    assert len(story.facts["ready"]) == 2


def test_a_misspelt_value_is_named_and_changes_nothing(story):
    assert "replica" in story.facts["misspelt"]
    before, after = story.facts["revisions"]
    assert before == after == (1, "deployed")


@pytest.mark.parametrize("phase", ["upgrade", "rollback"])
def test_every_operator_is_another_one_after(story, phase):
    phases = list(story.moments)
    before = story.moments[phases[phases.index(phase) - 1]].replicas
    after = story.moments[phase].replicas
    assert len(before) == len(after) == 2
    assert not before & after


def test_no_operator_is_left_after_the_uninstallation(story):
    assert story.moments["uninstall"].replicas == frozenset()


def test_the_processes_that_train_are_the_same_from_first_to_last(story):
    phases = list(story.moments)
    first, last = phases.index("train"), phases.index("install again")
    seen = {phase: story.moments[phase].trainers for phase in phases[first : last + 1]}
    assert len(seen["train"]) == 2
    assert all(trainers == seen["train"] for trainers in seen.values()), seen


@pytest.mark.parametrize("phase", ["upgrade", "rollback", "test", "uninstall"])
def test_the_job_trains_on_meanwhile(story, phase):
    phases = list(story.moments)
    before = story.moments[phases[phases.index(phase) - 1]].steps
    assert before < story.moments[phase].steps


def test_no_step_is_lost_and_none_is_run_twice(story):
    steps = story.run.steps()
    assert story.run.discarded() == []
    assert samples_in_order(steps)
    assert {row["round"] for row in steps if row["world_size"] == 2} == {steps[-1]["round"]}


def test_the_job_outlives_its_operator_and_is_taken_over_by_the_next(story):
    status = story.facts["status"]
    assert status["state"] == "Completed"
    assert status["progress"]["samples"] == story.run.steps()[-1]["samples"]
    assert status["resizes"] == 1
    assert status.get("failures", {}).get("count", 0) == 0


def test_a_pod_that_no_node_takes_is_an_alert(story):
    assert story.facts["alert"]["severity"]


def test_helm_test_has_exactly_the_rights_that_it_uses(story, node_cluster):
    assert "Phase:          Succeeded" in story.moments["test"].said
    objects, events = story.facts["objects"], node_cluster.audit_events()
    rights, uses = granted(objects, account=TEST), used(events, account=TEST)
    assert not_granted(uses, rights) == unused(rights, uses) == set()
