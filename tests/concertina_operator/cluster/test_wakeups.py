"""Which changes of a job put it into the queue."""

import pytest

from tests.cluster.api import wait_for
from tests.concertina_operator.cluster.jobs import a_job
from tests.concertina_operator.cluster.processes import ShellThread
from tests.concertina_operator.cluster.trainers import Trainers

OFF = {"scaling": {"mode": "Off"}}
"""Such a job is looked at, and never again by itself."""


@pytest.fixture
def shell(resources, namespace, monkeypatch):
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(resources.kubeconfig))
    with ShellThread(namespace) as thread:
        yield thread


def looks(shell):
    """How often a job was looked at."""
    (line,) = [
        line
        for line in shell.metrics.text().decode().splitlines()
        if line.startswith("concertina_operator_reconcile_seconds_count")
    ]
    return float(line.split()[-1])


def until_looks(shell, number):
    wait_for(lambda: looks(shell) >= number, lambda: f"{looks(shell)} of {number} looks")


def test_a_change_of_status_or_labels_alone_wakes_nobody(shell, api, namespace):
    trainers = Trainers(api=api, namespace=namespace)
    trainers.create(a_job(**OFF))
    until_looks(shell, 1)
    path = f"{trainers.group}/adaptivetrainingjobs/tiny-lm"
    for step in range(1, 6):
        api.patch(f"{path}/status", {"status": {"progress": {"step": step}}})
    api.patch(path, {"metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}}})

    # Both come after those on the same watch, one look each.
    trainers.edit(activeDeadlineSeconds=100)
    until_looks(shell, 2)
    trainers.create(a_job("later", **OFF))
    until_looks(shell, 3)
    assert looks(shell) == 3
