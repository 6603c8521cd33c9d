"""One job through all that may happen to its pods: no optimizer step is lost, none is run twice."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import pytest

from tests.e2e.kubelet.documents import growing
from tests.e2e.kubelet.runs import Identity, KubeletRun, applied
from tests.e2e.records import samples_in_order


class Part(StrEnum):
    """What a pod was in its round."""

    LEADER = "leader"
    FOLLOWER = "follower"


@dataclass
class Changes:
    """What was seen while the job was alive."""

    run: KubeletRun
    survivors: dict[Part, tuple[Identity, Identity]] = field(default_factory=dict)
    """Who trained on, before and after another pod was taken away, by that one's part."""
    discarded: dict[str, int] = field(default_factory=dict)
    """Steps that had been rolled back by then."""
    suspended_at: int = 0
    """Steps when all pods had gone."""
    only: str = ""
    """The pod that was deleted while there was no other."""


@pytest.fixture(scope="module")
def changes(node_cluster, operator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("changes") / "run"
    with applied(node_cluster, operator, folder, growing()) as run:
        changes = Changes(run)
        run.wait_steps(3, workers=2)
        _take_one_of_two(changes, Part.FOLLOWER, run.delete_pod)
        _take_one_of_two(changes, Part.LEADER, run.evict)
        _suspend_and_resume(changes)
        _delete_the_only_one(changes)
        run.finish()
        yield changes


def _take_one_of_two(changes: Changes, part: Part, take: Callable[[str], None]) -> None:
    run, before = changes.run, changes.run.identities()
    leader = run.leader()
    (follower,) = set(before) - {leader}
    taken, survivor = (leader, follower) if part is Part.LEADER else (follower, leader)
    run.replace(taken, take)
    changes.survivors[part] = before[survivor], run.identities()[survivor]
    changes.discarded[part] = len(run.discarded())


def _suspend_and_resume(changes: Changes) -> None:
    run = changes.run
    run.edit(suspend=True)
    run.wait(lambda: run.holds("Suspended") and not run.pods(), "suspended, without pods")
    last = run.steps()[-1]
    changes.suspended_at = last["step"]
    run.edit(suspend=False)
    run.wait_steps(3, workers=2, after=last["time"])
    changes.discarded["suspend"] = len(run.discarded())


def _delete_the_only_one(changes: Changes) -> None:
    run = changes.run
    run.kubectl("scale", f"atj/{run.name}", "--replicas=1")
    run.wait(lambda: len(run.pods()) == 1 == run.steps()[-1]["world_size"], "one pod alone")
    changes.discarded["scale"] = len(run.discarded())
    (changes.only,) = run.pods()
    run.replace(changes.only, run.delete_pod)
    changes.discarded["only"] = len(run.discarded())


@pytest.mark.parametrize("part", list(Part))
def test_a_deleted_or_evicted_pod_of_two_takes_no_step_with_it(changes, part):
    assert changes.discarded[part] == 0
    before, after = changes.survivors[part]
    assert before == after


def test_a_suspended_job_goes_on_at_the_very_next_sample(changes):
    assert changes.discarded["suspend"] == 0
    steps = changes.run.steps()
    before, after = steps[changes.suspended_at - 1 : changes.suspended_at + 1]
    assert after["samples"] == before["samples"] + after["global_batch_size"]
    assert after["round"] > before["round"]


def test_kubectl_scale_lowers_the_ceiling(changes):
    assert changes.discarded["scale"] == 0


def test_the_only_pod_saves_within_its_grace_and_is_replaced(changes):
    assert changes.discarded["only"] == 0
    assert "starting from checkpoint step-" in changes.run.words(changes.only)


def test_each_sample_counts_exactly_once(changes):
    steps = changes.run.steps()
    assert changes.run.discarded() == []
    assert samples_in_order(steps)
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))


def test_nothing_of_it_counts_as_a_failure(changes):
    assert changes.run.status().get("failures", {}).get("count", 0) == 0
    assert changes.run.holds("Completed")


def test_checkpoints_are_known_to_outlive_the_pods(changes):
    assert changes.run.holds("CheckpointDurable")
