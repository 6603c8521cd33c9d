"""The operator is killed after each of its writes in turn, and another one goes on."""

import json

import pytest

from tests.concertina_operator.cluster.processes import ShellThread
from tests.concertina_operator.cluster.trainers import Trainers, a_trained_job, prepare_node

MOST_WRITES = 40


@pytest.fixture
def reach(resources, api, monkeypatch):
    prepare_node(api)
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(resources.kubeconfig))


def end_state(trainers):
    """What must be the same, whatever happened on the way; numbers of rounds may be skipped."""
    status, spec = trainers.status(), trainers.membership()["spec"]
    assert spec["round"] == status["round"] == status["committedRound"]
    return {
        "pods": sorted(trainers.pods()),
        "members": [member["pod"] for member in spec["members"]],
        "membership": {name: spec[name] for name in ("intent", "requestSequence", "lost")},
        "conditions": [
            (entry["type"], entry["status"], entry["reason"]) for entry in status["conditions"]
        ],
        "status": {name: status[name] for name in ("state", "worldSize", "resizes", "failures")},
        "pods wanted": status["pods"]["wanted"],
        "batch": status["batch"]["effective"],
    }


def grown(trainers):
    """Turns until the job that asked for it has come to rest with two pods."""
    trainers.until_trained_by(f"{trainers.job}-0", f"{trainers.job}-1")
    trainers.until(lambda: trainers.status().get("state") == "Training", "not at rest")
    trainers.until(lambda: trainers.status()["resizes"] == 1, "the resize is not counted")


@pytest.mark.usefixtures("reach")
def test_a_resize_ends_in_the_same_state_after_which_write_ever_the_operator_is_killed(
    api, namespace
):
    trainers = Trainers(api=api, namespace=namespace, job="steady")
    trainers.create(a_trained_job("steady"))
    with ShellThread(namespace) as shell:
        trainers.until_trained_by("steady-0")
        trainers.until(lambda: trainers.status()["state"] == "Training", "not at rest")
        first = len(shell.api.writes)
        trainers.imagined.ask(64)
        grown(trainers)
        writes = shell.api.writes[first:]
    want = _renamed(end_state(trainers), "steady")
    assert 3 <= len(writes) <= MOST_WRITES

    for number, write in enumerate(writes, start=1):
        trainers = Trainers(api=api, namespace=namespace, job=f"killed-{number}")
        _grown_through_a_crash(trainers, dies_after=number)
        assert _renamed(end_state(trainers), trainers.job) == want, f"killed after {write}"
        api.delete(f"{trainers.group}/adaptivetrainingjobs/{trainers.job}")


def _grown_through_a_crash(trainers, *, dies_after):
    trainers.create(a_trained_job(trainers.job))
    with ShellThread(trainers.namespace):
        trainers.until_trained_by(f"{trainers.job}-0")
        trainers.until(lambda: trainers.status()["state"] == "Training", "not at rest")
    trainers.imagined.ask(64)
    with ShellThread(trainers.namespace, dies_after=dies_after) as mortal:
        trainers.until(
            lambda: mortal.api.is_dead.is_set() or trainers.status()["resizes"] == 1,
            "it does nothing",
        )
    with ShellThread(trainers.namespace):
        grown(trainers)


def _renamed(state, name):
    return json.loads(json.dumps(state).replace(name, "steady"))
