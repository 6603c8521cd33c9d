import pytest

from concertina_api.v1alpha1 import JobStatus, Resize
from concertina_operator.recovery import (
    leading_report,
    recovered,
    recoveries,
    recovery_in_words,
    slow,
    snapshot_status,
    snapshots_taken,
    useful_gpu_seconds,
)
from tests.concertina_operator.factories import (
    a_member,
    a_membership,
    a_report,
    a_spec,
    a_standing,
    at,
)


def a_resize(number=7, **fields):
    defaults = {
        "round": number,
        "world_size_before": 4,
        "world_size": 3,
        "step": 812,
        "pause_seconds": 2.4,
        "source": "snapshot",
    }
    return Resize.model_validate(defaults | fields)


def status(step=815, committed_round=6, **fields):
    return JobStatus.model_validate(
        {"committed_round": committed_round, "progress": {"step": step}} | fields
    )


def books(resize, *, before=None, membership=None):
    return recoveries(
        before or status(),
        reports=[a_report(acknowledged=resize)],
        membership=membership,
        now=at(5),
    )


def test_a_round_that_began_with_a_loss_is_a_recovery():
    resize = a_resize(lost=1, steps_lost=3, detection_seconds=1.5)
    got = books(resize)
    assert (got.count, got.steps_lost, got.source) == (1, 3, "snapshot")
    assert (got.detection_seconds, got.pause_seconds, got.at) == (1.5, 2.4, at(5))


@pytest.mark.parametrize(
    ("resize", "before", "membership"),
    [
        pytest.param(a_resize(step=815), status(), None, id="nobody was lost"),
        pytest.param(a_resize(lost=1), status(committed_round=7), None, id="counted before"),
        pytest.param(a_resize(1), status(0, 0), None, id="the first round"),
        pytest.param(None, status(), None, id="nothing is acknowledged"),
        pytest.param(
            a_resize(step=815), status(), a_membership(8, 0, lost=(a_member(1),)), id="a later loss"
        ),
    ],
)
def test_other_rounds_are_none(resize, before, membership):
    assert books(resize, before=before, membership=membership) == before.recoveries


@pytest.mark.parametrize(
    ("resize", "membership", "want_steps"),
    [
        pytest.param(a_resize(step=815, lost=2), None, 0, id="the leader says so"),
        pytest.param(
            a_resize(step=815), a_membership(7, 0, lost=(a_member(1),)), 0, id="the round names it"
        ),
        pytest.param(a_resize(world_size_before=0), None, 3, id="nobody is left who would know"),
        pytest.param(a_resize(steps_lost=9), None, 9, id="more than the operator had heard of"),
    ],
)
def test_a_loss_is_known_from_whoever_knows_it(resize, membership, want_steps):
    got = books(resize, membership=membership)
    assert (got.count, got.steps_lost) == (1, want_steps)


def test_an_event_tells_what_a_loss_has_cost():
    membership = a_membership(7, 0, 1, 3, lost=(a_member(2),))
    resize, before = a_resize(lost=1, steps_lost=3, detection_seconds=1.25), status()
    after = before.model_copy(
        update={"recoveries": books(resize, before=before, membership=membership)}
    )
    assert recovered(before, reports=[a_report(acknowledged=resize)], membership=membership)
    told = recovery_in_words(after, before=before, resize=resize, membership=membership)
    assert told == (
        "round 7: 3 worker(s) go on without tiny-lm-2, state of step 812 from a snapshot,"
        " 3 steps lost, 2.4 s, noticed after 1.25 s"
    )


@pytest.mark.parametrize(
    ("told", "held", "want"),
    [
        pytest.param(40.0, 100.0, 40.0, id="as told"),
        pytest.param(10.0, 100.0, 10.0, id="fallen with steps that were lost"),
        pytest.param(1e12, 100.0, 100.0, id="never more than were held"),
        pytest.param(None, 100.0, 30.0, id="nobody tells"),
    ],
)
def test_useful_seconds_are_part_of_those_held(told, held, want):
    progress = {"step": 1, "samples": 8, "round": 1, "useful_seconds": told}
    report = a_report(progress=progress if told is not None else None)
    got = useful_gpu_seconds(status(useful_gpu_seconds=30.0), reports=[report], gpu_seconds=held)
    assert got == want


FACTS = {"step": 40, "every_steps": 20, "seconds": 0.5, "cost": 0.008}


@pytest.mark.parametrize(
    ("members", "facts", "want"),
    [
        ((0, 1), FACTS, (True, "Complete")),
        ((0, 1), {"every_steps": 0}, (False, "NotYet")),
        ((0, 1), {"every_steps": 20}, (False, "NotYet")),
        ((0, 1), FACTS | {"step": 0}, (True, "Complete")),
        ((0, 1), None, (False, "NotYet")),
        ((0, 1), {"off": "they need 8 GiB", "fits": False}, (False, "MemoryTooSmall")),
        ((0, 1), {"off": "a snapshot failed: memory"}, (False, "NotTaken")),
        ((0,), FACTS, (False, "SinglePod")),
    ],
    ids=[
        "taken",
        "before any is due",
        "before the first",
        "of the seed",
        "an older trainer",
        "no memory",
        "failed",
        "alone",
    ],
)
def test_a_condition_says_whether_snapshots_protect(members, facts, want):
    claim = snapshots_taken(
        a_spec(), membership=a_membership(1, *members), report=a_report(snapshot=facts)
    )
    assert (claim.holds, claim.reason) == want


def test_its_words_have_the_numbers():
    def message(facts):
        report = a_report(snapshot=facts)
        return snapshots_taken(a_spec(), membership=a_membership(1, 0, 1), report=report).message

    assert message(FACTS) == ("every 20 steps, at 0.8 % of the step time; the newest at step 40")
    assert message({"off": "needs 8 GiB, has 4 GiB"}) == "needs 8 GiB, has 4 GiB"


def test_snapshots_that_are_not_wanted_are_off_and_those_of_nobody_unknown():
    off = a_spec(snapshots={"mode": "Off"})
    claim = snapshots_taken(off, membership=None, report=None)
    assert (claim.holds, claim.reason) == (False, "Disabled")
    assert snapshots_taken(a_spec(), membership=a_membership(1), report=None) is None


def test_only_the_leader_speaks_of_snapshots():
    standings = [a_standing(0, snapshot=FACTS | {"step": 99}), a_standing(1, snapshot=FACTS)]
    report = leading_report(a_membership(3, 1, 0), standings)
    assert snapshot_status(JobStatus().snapshot, report).step == 40
    kept = snapshot_status(JobStatus().snapshot, leading_report(a_membership(3), standings))
    assert kept == JobStatus().snapshot


@pytest.mark.parametrize(
    ("names", "want"),
    [
        pytest.param((), "", id="nobody"),
        pytest.param(("tiny-lm-1",), "the others wait for tiny-lm-1", id="a member"),
        pytest.param(("stranger",), "", id="nobody that the round names"),
    ],
)
def test_a_straggler_is_named(names, want):
    claim = slow(a_membership(1, 0, 1), a_report(slow=names))
    assert (claim.holds, claim.message) == (bool(want), want)
