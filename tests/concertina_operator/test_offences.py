import pytest

from concertina_api.v1alpha1 import Offences
from concertina_operator.observed import Phase
from concertina_operator.offences import MOST_AVOIDED, avoided, offences, until
from tests.concertina_operator.factories import a_standing, at

HOUR = 3600


def lost(index, node="n1", **pod):
    """A pod that its node has ended."""
    return a_standing(index, pod={"node": node, "phase": Phase.FAILED} | pod)


def counts(known):
    return {entry.node: len(entry.at) for entry in known}


@pytest.mark.parametrize(
    ("pod", "want"),
    [
        pytest.param({}, 1, id="nothing is known of its trainer"),
        pytest.param({"disrupted": True, "exit_code": 137}, 1, id="the kubelet evicted it"),
        pytest.param({"exit_code": 1}, 0, id="its trainer failed"),
        pytest.param({"setup_failed": True}, 0, id="its own container failed"),
        pytest.param({"deleting": True}, 0, id="it was told to end"),
        pytest.param({"phase": Phase.SUCCEEDED, "exit_code": 0}, 0, id="it ended well"),
        pytest.param({"phase": Phase.RUNNING}, 0, id="it runs"),
        pytest.param({"node": ""}, 0, id="it was never placed"),
    ],
)
def test_what_counts_is_what_neither_the_code_nor_an_order_has_ended(pod, want):
    assert sum(counts(offences((), [lost(1, **pod)], excluded=(), now=at(0))).values()) == want


def gave_up(index, node="n1", *, cause="Infrastructure", leaving=False, **pod):
    """A pod whose trainer has told why it failed, and ended."""
    failure = {"round": 1, "incarnation": f"i{index}", "cause": cause}
    pod = {"node": node, "phase": Phase.FAILED, "exit_code": 1} | pod
    return a_standing(index, pod=pod, failure=failure, leaving=leaving)


@pytest.mark.parametrize(
    ("standing", "want"),
    [
        pytest.param(gave_up(1), 1, id="for a device that is broken"),
        pytest.param(gave_up(1, phase=Phase.RUNNING), 1, id="a sidecar runs on"),
        pytest.param(lost(1, exit_code=137), 1, id="it was killed from outside"),
        pytest.param(lost(1, exit_code=137, out_of_memory=True), 0, id="for lack of memory"),
        pytest.param(gave_up(1, cause="Exception"), 0, id="for its code"),
        pytest.param(gave_up(1, exit_code=None, phase=Phase.RUNNING), 0, id="it tries again"),
        pytest.param(gave_up(1, deleting=True), 0, id="it was told to end"),
        pytest.param(gave_up(1, leaving=True), 0, id="it has heard so first"),
    ],
)
def test_a_trainer_that_gives_up_counts_when_its_code_is_not_to_blame(standing, want):
    assert sum(counts(offences((), [standing], excluded=(), now=at(0))).values()) == want


def test_what_trainers_of_several_nodes_give_up_for_at_once_is_no_offence_of_theirs():
    assert offences((), [gave_up(1), gave_up(2, "n2")], excluded=(), now=at(0)) == ()
    alone = offences((), [gave_up(1), gave_up(2)], excluded=(), now=at(0))
    assert counts(alone) == {"n1": 1}


def test_who_is_excluded_counts_though_its_pod_runs():
    silent = a_standing(1, pod={"node": "n1"})
    assert counts(offences((), [silent], excluded={"uid-1"}, now=at(0))) == {"n1": 1}


def test_a_pod_counts_once():
    first = offences((), [lost(1)], excluded=(), now=at(0))
    assert offences(first, [lost(1)], excluded={"uid-1"}, now=at(5)) == first


def test_pods_that_are_lost_together_are_one_offence_of_their_node():
    found = offences((), [lost(1), lost(2), lost(3, node="n2")], excluded=(), now=at(0))
    assert counts(found) == {"n1": 1, "n2": 1}
    assert [entry.uids for entry in found] == [("uid-1", "uid-2"), ("uid-3",)]


def test_offences_add_up_within_an_hour_and_are_forgotten_an_hour_after_the_last():
    known = ()
    for index, seconds in enumerate((0, 1800, 3000)):
        known = offences(known, [lost(index)], excluded=(), now=at(seconds))
    assert counts(known) == {"n1": 3}
    known = offences(known, [lost(9)], excluded=(), now=at(HOUR + 1))
    assert counts(known) == {"n1": 3}, "the first is older than an hour"
    assert counts(offences(known, [], excluded=(), now=at(2 * HOUR))) == {"n1": 3}
    assert offences(known, [], excluded=(), now=at(2 * HOUR + 1)) == ()


@pytest.mark.parametrize(
    ("after", "now", "want"),
    [
        pytest.param(2, 100, ("n1",), id="as often as it takes"),
        pytest.param(3, 100, (), id="not yet"),
        pytest.param(0, 100, (), id="never"),
        pytest.param(2, 60 + HOUR - 1, ("n1",), id="for an hour"),
        pytest.param(2, 60 + HOUR, (), id="no longer"),
    ],
)
def test_a_node_is_avoided_for_an_hour_after_the_offence_too_many(after, now, want):
    known = (Offences(node="n1", at=(at(0), at(60))), Offences(node="n2", at=(at(60),)))
    assert avoided(known, after=after, now=at(now)) == want
    assert until(known[0]) == at(60 + HOUR)


def test_only_so_many_nodes_are_avoided_the_newest_offenders():
    nodes = [f"n{number:02}" for number in range(MOST_AVOIDED + 2)]
    known = ()
    for index, node in enumerate(nodes):
        known = offences(known, [lost(index, node=node)], excluded=(), now=at(index))
    assert list(avoided(known, after=1, now=at(100))) == nodes[2:]


def test_the_record_stays_bounded():
    known = ()
    for index in range(150):
        known = offences(known, [lost(index)], excluded=(), now=at(index))
        known = offences(known, [lost(1000 + index, f"m{index}")], excluded=(), now=at(index))
    assert len(known) == 64
    assert max(len(entry.at) for entry in known) == 100
    assert max(len(entry.uids) for entry in known) == 32


def test_a_record_without_times_counts_for_nothing():
    assert offences((Offences(node="n1"),), [], excluded=(), now=at(0)) == ()
    assert avoided((Offences(node="n1"),), after=1, now=at(0)) == ()
