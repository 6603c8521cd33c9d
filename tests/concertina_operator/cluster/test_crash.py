"""The operator is killed after each of its writes in turn, and another one goes on."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster.api import wait_for
from tests.concertina_operator.cluster.processes import ShellThread
from tests.concertina_operator.cluster.trainers import Trainers, a_trained_job, prepare_node

MOST_WRITES = 40


@dataclass(frozen=True, kw_only=True)
class Change:
    """Something that the operator carries out in several writes."""

    make: Callable[[Trainers], object]
    is_done: Callable[[Trainers], object]


def trains(trainers, *, number):
    """Whether so many pods train, and the operator knows all of it."""
    status = trainers.status()
    is_at_rest = status.get("state") == "Training" and status.get("worldSize") == number
    return is_at_rest and trainers.imagined.trains and len(trainers.imagined.members) == number


def has_resized(trainers):
    return trains(trainers, number=2) and trainers.status()["resizes"] == 1


def is_suspended(trainers):
    return trainers.condition("Suspended").get("reason") == "Suspended" and not trainers.pods()


def delete_pod(trainers):
    (name,) = pods = trainers.pods()
    trainers.told["deleted"] = pods[name]["metadata"]["uid"]
    trainers.api.delete(f"/api/v1/namespaces/{trainers.namespace}/pods/{name}")


def is_replaced(trainers):
    uids = [pod["metadata"]["uid"] for pod in trainers.pods().values()]
    return trainers.told["deleted"] not in uids and trains(trainers, number=1)


START = Change(
    make=lambda trainers: trainers.create(a_trained_job(trainers.job)),
    is_done=lambda trainers: trains(trainers, number=1),
)
RESIZE = Change(make=lambda trainers: trainers.imagined.ask(64), is_done=has_resized)
SUSPEND = Change(make=lambda trainers: trainers.edit(suspend=True), is_done=is_suspended)
RESUME = Change(make=lambda trainers: trainers.edit(suspend=False), is_done=START.is_done)
REPLACE = Change(make=delete_pod, is_done=is_replaced)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A namespace in which one operator at a time works on jobs of these trainers."""

    api: Any
    namespace: str

    def trainers(self, name):
        return Trainers(api=self.api, namespace=self.namespace, job=name)

    def carry_out(self, change, crews):
        """Make the change to all the jobs, and have an operator carry it out."""
        for trainers in crews:
            change.make(trainers)
        with ShellThread(self.namespace):
            self.until_done(change, crews)

    def until_done(self, change, crews):
        def all_done():
            for trainers in crews:
                trainers.turn()
            return all(change.is_done(trainers) for trainers in crews)

        wait_for(all_done, lambda: f"{[trainers.status() for trainers in crews]}")

    def undisturbed(self, way, change):
        """The end state without a crash, and the writes that led to it."""
        trainers = self.trainers("steady")
        for step in way:
            self.carry_out(step, [trainers])
        change.make(trainers)
        with ShellThread(self.namespace, job="steady") as shell:
            self.until_done(change, [trainers])
        assert 3 <= len(shell.api.writes) <= MOST_WRITES
        return end_state(trainers), shell.api.writes

    def killed(self, way, change, *, number):
        """Trainers of jobs to which the change was made; the n-th was left after its n-th write."""
        crews = [self.trainers(f"killed-{count}") for count in range(1, number + 1)]
        for step in way:
            self.carry_out(step, crews)
        for count, trainers in enumerate(crews, start=1):
            self.kill(trainers, change, after=count)
        return crews

    def kill(self, trainers, change, *, after):
        """Make the change, and let the operator live for so many writes for this job."""
        change.make(trainers)
        with ShellThread(self.namespace, job=trainers.job, dies_after=after) as mortal:
            trainers.until(
                lambda: mortal.api.is_dead.is_set() or change.is_done(trainers),
                "the operator does nothing",
            )


@pytest.fixture
def scene(resources, api, namespace, monkeypatch):
    prepare_node(api)
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(resources.kubeconfig))
    return Scene(api=api, namespace=namespace)


def end_state(trainers):
    """What must be the same, whatever happened on the way.

    Numbers of rounds may be skipped, and a pod that is replaced may get a name that is free again.
    """
    status, spec = trainers.status(), trainers.membership()["spec"]
    assert spec["round"] == status["round"]
    pods = sorted(trainers.pods())
    state = {
        "pods": pods,
        "members": [member["pod"] for member in spec.get("members", ())],
        "membership": {name: spec[name] for name in ("intent", "requestSequence", "lost")},
        "is committed": status["round"] == status["committedRound"],
        "conditions": [
            (entry["type"], entry["status"], entry["reason"]) for entry in status["conditions"]
        ],
        "status": {name: status[name] for name in ("state", "worldSize", "resizes", "failures")},
        "pods wanted": status["pods"]["wanted"],
        "batch": status["batch"]["effective"],
    }
    text = json.dumps(state)
    for number, name in enumerate(pods):
        text = text.replace(f'"{name}"', f'"pod {number}"')
    return json.loads(text.replace(trainers.job, "job"))


@pytest.mark.parametrize(
    ("way", "change"),
    [
        pytest.param((), START, id="start"),
        pytest.param((START,), RESIZE, id="resize"),
        pytest.param((START,), SUSPEND, id="suspension"),
        pytest.param((START, SUSPEND), RESUME, id="resumption", marks=pytest.mark.matrix),
        pytest.param((START,), REPLACE, id="deletion of a pod", marks=pytest.mark.matrix),
    ],
)
def test_ends_in_the_same_state_after_which_write_ever_the_operator_is_killed(scene, way, change):
    want, writes = scene.undisturbed(way, change)
    crews = scene.killed(way, change, number=len(writes))
    with ShellThread(scene.namespace):
        scene.until_done(change, crews)
    for write, trainers in zip(writes, crews, strict=True):
        assert end_state(trainers) == want, f"killed after {write}"


def test_a_job_deleted_after_whichever_write_of_a_resize_leaves_nothing(scene, api):
    _, writes = scene.undisturbed((START,), RESIZE)
    crews = scene.killed((START,), RESIZE, number=len(writes))
    for trainers in crews:
        api.delete(f"{trainers.group}/adaptivetrainingjobs/{trainers.job}")

    def left():
        for trainers in crews:
            trainers.turn()
        memberships = api.list(f"{crews[0].group}/trainingmemberships")
        names = [entry["metadata"]["name"] for entry in memberships]
        pods = [name for trainers in crews for name in trainers.pods()]
        return [name for name in (*names, *pods) if name.startswith("killed")]

    with ShellThread(scene.namespace):
        wait_for(lambda: not left(), lambda: f"{left()} are left")
