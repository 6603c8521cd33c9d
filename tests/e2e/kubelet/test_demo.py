"""The demo as a user applies it: the shipped manifest, its own requests, real pods."""

from typing import Any

import pytest
import yaml

from tests.cluster.pods import REPOSITORY
from tests.e2e.kubelet.growth import course, losses, watch_growth
from tests.e2e.kubelet.runs import applied
from tests.e2e.records import samples_in_order
from tests.e2e.runs import started

SIZES = (1, 2, 4)
LOCAL_SECONDS = 400.0
"""About 140 on two idle cores."""
GROWTH_SECONDS = 400.0
"""For each size: hundreds of steps come before the next one."""
LOSS_BOUND = 1e-2
"""Sums of floats in another order, carried through hundreds of optimizer steps; 0.003 was seen."""

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(1200)]


def document() -> dict[str, Any]:
    """The manifest; `applied` gives it pods of this machine, and changes nothing else."""
    read: dict[str, Any] = yaml.safe_load((REPOSITORY / "manifests/01-minimal.yaml").read_text())
    return read


@pytest.fixture(scope="module")
def grown(node_cluster, operator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "run"
    with applied(node_cluster, operator, folder, document()) as run:
        run.deadline_seconds = GROWTH_SECONDS
        yield watch_growth(run, SIZES)


def test_the_pods_follow_the_requests_of_the_trainer(grown):
    seen = list(dict.fromkeys(row["world_size"] for row in grown.run.steps()))
    assert seen == list(SIZES)
    assert grown.run.status()["resizes"] == 2
    assert grown.run.discarded() == []


def test_the_processes_of_surviving_pods_stay_the_same(grown):
    assert [len(found) for found in grown.identities.values()] == list(SIZES)
    assert grown.survivors_stayed()


def test_completes_with_all_samples(grown):
    status = grown.run.status()
    assert status["progress"]["samples"] == document()["spec"]["samples"]
    assert status["failures"]["count"] == 0
    assert not grown.run.holds("Failed")


def test_trains_like_concertina_run_of_the_same_manifest(grown, tmp_path):
    with started(tmp_path / "run", document()) as local:
        assert local.end(seconds=LOCAL_SECONDS) == 0, local.account()
    there, here = grown.run.steps(), local.steps()
    assert samples_in_order(there)
    assert course(there) == course(here)
    assert losses(there) == pytest.approx(losses(here), abs=LOSS_BOUND)
