"""Times that a leader on another machine wrote, read by one whose clock differs."""

import pytest

from concertina_api.v1alpha1 import JobStatus, Offences, RetryStatus
from concertina_operator.backoff import LONGEST_WITH_JITTER
from concertina_operator.own_time import in_own_time
from tests.concertina_operator.factories import at
from tests.concertina_operator.planned import a_cluster

HOUR = 3600


@pytest.mark.parametrize(
    "name", ["round_at", "waiting_since", "below_min_since", "gpu_counted_at", "scaled_at"]
)
@pytest.mark.parametrize(("stored", "want"), [(HOUR, 5), (5, 5), (2, 2)])
def test_nothing_has_happened_later_than_now(name, stored, want):
    read = in_own_time(JobStatus(**{name: at(stored)}), known_since=at(4), now=at(5))
    assert getattr(read, name) == at(want)


@pytest.mark.parametrize(
    ("stored", "known_since", "want"),
    [
        pytest.param(-HOUR, 4, 4, id="asked long ago, by another clock"),
        pytest.param(HOUR, 4, 5, id="asked in the future"),
        pytest.param(4.5, 4, 4.5, id="asked by this process"),
        pytest.param(-HOUR, None, -HOUR, id="there is one process only"),
    ],
)
def test_an_answer_is_waited_for_by_the_own_clock(stored, known_since, want):
    since = None if known_since is None else at(known_since)
    read = in_own_time(JobStatus(probe_at=at(stored)), known_since=since, now=at(5))
    assert read.probe_at == at(want)


def test_no_pause_is_longer_than_any_can_be():
    retry = RetryStatus(count=2, not_before=at(10 * HOUR))
    read = in_own_time(JobStatus(retry=retry), known_since=None, now=at(5))
    assert read.retry == RetryStatus(count=2, not_before=at(5) + LONGEST_WITH_JITTER)


def test_a_node_has_not_offended_in_the_future():
    offences = (Offences(node="n1", at=(at(1), at(HOUR)), uids=("a",)),)
    read = in_own_time(JobStatus(offences=offences), known_since=None, now=at(5))
    assert read.offences == (Offences(node="n1", at=(at(1), at(5)), uids=("a",)),)


def test_a_silent_member_is_found_in_time_by_a_leader_whose_clock_is_an_hour_behind():
    cluster = a_cluster(effective=64)
    cluster.now = HOUR
    silent = list(cluster.pods.values())[-1]
    silent.silent = True
    cluster.act()
    cluster.reconcile()
    assert cluster.job.status.probe_at == at(HOUR)
    cluster.now = 0
    cluster.pass_time(horizon=60)
    assert silent.uid in {lost.uid for entry in cluster.history for lost in entry.lost}
    assert cluster.trains
