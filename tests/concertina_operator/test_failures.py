import itertools

import pytest

from concertina_api.v1alpha1 import FailureCount, PodPhase
from concertina_operator.acceptance import Standing
from concertina_operator.failures import described, failures
from concertina_operator.observed import Phase
from tests.concertina_operator.factories import a_member, a_membership, a_pod, a_standing, at

TRAINING = {"phase": PodPhase.TRAINING, "round": 1}


def a_failure(**fields):
    defaults = {"round": 1, "incarnation": "i0", "rank": 0, "cause": "Exception", "message": "bad"}
    return defaults | fields


def news(standings, *, before=None, membership=None, step=0, not_before=None, now=0):
    return failures(
        before or FailureCount(),
        membership=membership,
        standings=standings,
        step=step,
        not_before=None if not_before is None else at(not_before),
        now=at(now),
    )


def test_a_failed_round_is_counted_once_with_the_first_failing_rank_as_cause():
    standings = [
        a_standing(0, failure=a_failure(incarnation="a", rank=1, cause="Infrastructure")),
        a_standing(1, failure=a_failure(incarnation="b", rank=3, message="ValueError: x")),
        a_standing(2, failure=a_failure(incarnation="c", rank=2, message="KeyError: y")),
    ]
    got = news(standings, membership=a_membership(1, 0, 1, 2), step=40)
    assert got.count.count == 1
    assert got.count.message == "tiny-lm-2 failed as rank 2 of round 1 (Exception): KeyError: y"
    assert (got.count.rounds, got.count.good_step) == ((1,), 40)
    again = news(standings, before=got.count, membership=a_membership(1, 0, 1, 2))
    assert (again.count, again.found) == (got.count, ())
    later = [a_standing(3, failure=a_failure(incarnation="d"))]
    late = news(later, before=got.count, membership=a_membership(1, 0, 1, 2))
    assert (late.count.count, late.counted) == (1, None)


def test_the_same_pod_can_fail_in_another_round():
    first = news([a_standing(failure=a_failure())], membership=a_membership(1, 0))
    restarted = a_standing(incarnation="i1", failure=a_failure(round=2, incarnation="i1"))
    second = news([restarted], before=first.count, membership=a_membership(2, 0))
    assert second.count.count == 2


@pytest.mark.parametrize(
    "standing",
    [
        pytest.param(a_standing(pod={"exit_code": 0}), id="ended with 0"),
        pytest.param(a_standing(pod={"phase": Phase.FAILED}), id="evicted, no exit code was seen"),
        pytest.param(
            a_standing(pod={"exit_code": 137, "disrupted": True}), id="evicted, its trainer killed"
        ),
        pytest.param(a_standing(pod={"exit_code": 143, "deleting": True}), id="it was deleted"),
        pytest.param(a_standing(pod={"exit_code": 1}, leaving=True), id="it had its SIGTERM"),
        pytest.param(a_standing(failure=a_failure(cause="Infrastructure")), id="a bad disk"),
        pytest.param(Standing(pod=a_pod(exit_code=-9)), id="kill -9"),
        pytest.param(Standing(pod=a_pod(exit_code=137)), id="killed by a runtime"),
        pytest.param(Standing(pod=a_pod(exit_code=143)), id="told to end by a runtime"),
    ],
)
def test_what_is_nobodys_fault_does_not_count(standing):
    assert news([standing], membership=a_membership(1, 0)).count.count == 0


def test_a_leaving_pod_may_exit_with_any_code():
    membership = a_membership(2, 1, leaving=(a_member(0),))
    assert news([a_standing(pod={"exit_code": 1})], membership=membership).count.count == 0


def test_what_a_pod_did_while_it_left_does_not_count_in_the_round_after_that_either():
    gone_wrong = [a_standing(phase=PodPhase.FAILED, failure=a_failure())]
    left = news(gone_wrong, membership=a_membership(2, leaving=(a_member(0),)))
    later = news(gone_wrong, membership=a_membership(3), before=left.count)
    assert (later.count.count, later.found) == (0, ())


@pytest.mark.parametrize(
    ("code", "want_cause", "want_permanent"),
    [
        (1, "ExitCode", False),
        (-11, "Signal", False),
        (139, "Signal", False),
        (2, "InvalidJob", True),
    ],
)
def test_an_exit_code_tells_what_no_report_does(code, want_cause, want_permanent):
    got = news([Standing(pod=a_pod(exit_code=code))], membership=a_membership(1, 0))
    assert got.count.count == 1
    assert got.counted.failure.cause == want_cause
    assert (got.permanent is not None) == want_permanent
    assert described(got.counted) == f"tiny-lm-0 failed ({want_cause}): exit code {code}"


def test_a_failure_counts_once_though_the_report_of_the_pod_goes_before_the_pod():
    ended = a_standing(pod={"exit_code": 1}, **TRAINING)
    first = news([ended], membership=a_membership(1, 0))
    unreported = Standing(pod=ended.pod, report=None)
    after = a_membership(2, lost=(a_member(0),))
    assert news([unreported], before=first.count, membership=after).count == first.count
    assert news([unreported], membership=after).count.count == 1


def test_the_servers_words_stand_behind_the_exit_code():
    killed = Standing(pod=a_pod(exit_code=137, out_of_memory=True, ending="OOMKilled; limit 4Gi"))
    got = news([killed], membership=a_membership(1, 0))
    want = "tiny-lm-0 failed (OutOfMemory): exit code 137: OOMKilled; limit 4Gi"
    assert (described(got.counted), got.count.count) == (want, 1)


@pytest.mark.parametrize(
    ("facts", "want_count", "want_words"),
    [
        pytest.param(
            {"phase": Phase.FAILED, "ending": "OutOfnvidia.com/gpu: Node had no GPU"},
            0,
            "tiny-lm-1 failed (NotStarted): OutOfnvidia.com/gpu: Node had no GPU",
            id="the kubelet would not have it",
        ),
        pytest.param(
            {
                "phase": Phase.FAILED,
                "setup_failed": True,
                "ending": "init container fetch ended with code 6",
            },
            1,
            "tiny-lm-1 failed (ExitCode): init container fetch ended with code 6",
            id="an init container failed",
        ),
        pytest.param(
            {"exit_code": 0},
            0,
            "tiny-lm-1 failed (NotStarted): it ended with code 0 before it was in a round",
            id="its command does not train",
        ),
        pytest.param(
            {"phase": Phase.FAILED, "exit_code": 137, "disrupted": True, "ending": "Evicted"},
            0,
            "tiny-lm-1 failed (NotStarted): Evicted",
            id="evicted while it started",
        ),
    ],
)
def test_a_pod_that_ends_before_any_round_is_a_failure(facts, want_count, want_words):
    got = news([Standing(pod=a_pod(1, **facts))])
    assert got.count.count == want_count
    assert [described(entry) for entry in got.found] == [want_words]
    assert news([Standing(pod=a_pod(1, **facts))], before=got.count).found == ()


@pytest.mark.parametrize(
    "report",
    [
        pytest.param({"phase": PodPhase.LEFT}, id="it had left"),
        pytest.param({"phase": PodPhase.TRAINING, "round": 1}, id="it was in an earlier round"),
    ],
)
def test_a_pod_that_was_named_once_ends_as_it_likes(report):
    got = news([a_standing(1, pod={"exit_code": 0}, **report)], membership=a_membership(2, 0))
    assert got.found == ()


def test_pods_that_fail_at_their_start_count_once_per_attempt_while_nobody_trains():
    crashed = [a_standing(index, failure=a_failure(round=0, rank=-1)) for index in (0, 1)]
    first = news(crashed[:1], now=0)
    assert first.count.count == 1
    same_attempt = news(crashed, before=first.count, not_before=2, now=1)
    assert (same_attempt.count.count, len(same_attempt.found)) == (1, 1)
    next_attempt = news(crashed, before=first.count, not_before=2, now=2)
    assert next_attempt.count.count == 2


def test_a_pod_that_fails_at_its_start_does_not_count_while_others_train():
    crashed = a_standing(1, failure=a_failure(round=0, rank=-1))
    got = news([a_standing(0, **TRAINING), crashed], membership=a_membership(1, 0))
    assert (got.count.count, len(got.found)) == (0, 1)


@pytest.mark.parametrize(("step", "want_count"), [(1039, 3), (1040, 0)])
def test_the_count_starts_anew_after_a_thousand_good_steps(step, want_count):
    before = FailureCount(count=3, total=9, rounds=(1, 2, 3), good_step=40)
    got = news([], before=before, step=step)
    assert (got.count.count, got.count.rounds) == (want_count, (1, 2, 3))
    assert got.count.total == 9


def test_the_memory_of_failures_is_bounded():
    count = FailureCount()
    for number in range(1, 600):
        standing = a_standing(failure=a_failure(round=number, incarnation=f"i{number}"))
        count = news([standing], before=count, membership=a_membership(number, 0)).count
    assert count.count == count.total == 599
    assert max(len(count.rounds), len(count.uids)) <= 1024
    assert count.rounds[-1] == 599


def test_a_failure_of_a_pod_that_is_there_is_never_forgotten():
    number = 600  # more than the count remembers of pods that are gone
    present = [
        a_standing(index, failure=a_failure(round=1, incarnation=f"i{index}"))
        for index in range(number)
    ]
    membership = a_membership(1, *range(number))
    count = news(present, membership=membership).count
    assert (count.count, len(count.uids)) == (1, number)
    other = a_standing(number, failure=a_failure(round=1, incarnation="x"))
    again = news([*present, other], before=count, membership=membership)
    assert [entry.pod for entry in again.found] == [f"tiny-lm-{number}"]
    assert news([*present, other], before=again.count, membership=membership).found == ()


def test_failures_of_the_infrastructure_are_counted_apart_each_once():
    standings = [
        a_standing(0, failure=a_failure(incarnation="a", cause="Infrastructure")),
        Standing(pod=a_pod(1, exit_code=137)),
    ]
    membership = a_membership(1, 0, 1)
    first = news(standings, membership=membership)
    assert (first.count.infrastructure, first.count.count, first.counted) == (2, 0, None)
    again = news(standings, before=first.count, membership=membership)
    assert again.count == first.count


def test_a_lost_node_does_not_hide_the_failure_of_the_code_beside_it():
    standings = [
        a_standing(0, failure=a_failure(incarnation="a", rank=0, cause="Infrastructure")),
        a_standing(1, failure=a_failure(incarnation="b", rank=1, message="KeyError: y")),
    ]
    got = news(standings, membership=a_membership(1, 0, 1))
    assert (got.counted.pod, got.count.count, got.count.infrastructure) == ("tiny-lm-1", 1, 1)


def test_the_traceback_of_the_first_failing_rank_is_kept_until_the_count_starts_anew():
    standings = [
        a_standing(0, failure=a_failure(incarnation="a", rank=2, traceback="of rank 2")),
        a_standing(1, failure=a_failure(incarnation="b", rank=1, traceback="of rank 1")),
    ]
    got = news(standings, membership=a_membership(1, 0, 1), step=10)
    assert got.count.traceback == "of rank 1"
    lost = [a_standing(2, failure=a_failure(round=2, incarnation="c", cause="Infrastructure"))]
    kept = news(lost, before=got.count, membership=a_membership(2, 2), step=11)
    assert kept.count.traceback == "of rank 1"
    assert news([], before=got.count, step=1010).count.traceback == ""


def fail_at(numbers, before, *, first, num_samples=8, cause="Exception"):
    """The news after a failure of a new round at these samples."""
    number = next(numbers)
    failure = a_failure(
        round=number,
        incarnation=f"i{number}",
        cause=cause,
        first_sample=first,
        num_samples=num_samples,
    )
    standing = a_standing(0, incarnation=f"i{number}", failure=failure)
    return news([standing], before=before, membership=a_membership(number, 0), step=3)


def test_samples_that_fail_a_third_time_are_to_blame_whoever_works_on_them():
    numbers, count = itertools.count(1), FailureCount()
    for first in (16, 64, 16, 200):
        got = fail_at(numbers, count, first=first)
        assert got.poison is None
        count = got.count
    got = fail_at(numbers, count, first=16)
    assert (got.poison.first, got.poison.num_samples, got.poison.count) == (16, 8, 3)


def test_a_node_that_dies_at_a_sample_does_not_make_it_suspect():
    numbers, count = itertools.count(1), FailureCount()
    for _ in range(5):
        count = fail_at(numbers, count, first=16, cause="Infrastructure").count
    assert count.samples == ()


def test_an_end_that_comes_after_a_failure_told_before_is_a_failure_of_its_own():
    told = a_failure(incarnation="i0", message="KeyError: y")
    first = news([a_standing(failure=told)], membership=a_membership(1, 0))
    ended = {"exit_code": 137, "out_of_memory": True}
    later = a_standing(incarnation="i1", failure=told, pod=ended)
    membership = a_membership(2, members=(a_member(0, incarnation="i1"),))
    second = news([later], before=first.count, membership=membership)
    assert (second.counted.failure.cause, second.count.count) == ("OutOfMemory", 2)
