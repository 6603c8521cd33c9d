"""Whatever happens, in whatever order: the plan's promises hold, and quiet time ends in rest.

The promises of each single plan are checked inside the imagined cluster (cluster.py): never above
max or granted, only allowed sizes unless a loss forces another, rounds never fall, no member
vanishes unlisted, the same input gives the same plan, an applied plan is followed by an empty one.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concertina_api.v1alpha1 import PodPhase
from concertina_operator.sizing import fitting_size, needed_pods
from tests.concertina_operator.factories import a_job, a_spec
from tests.concertina_operator.imagined_cluster import FakeCluster

SIZES: list[dict[str, Any]] = [
    {"min": 1, "max": 4, "allowed": [1, 2, 4]},
    {"min": 1, "max": 1},
    {"min": 2, "max": 5},
    {"min": 1, "max": 6, "allowed": [2, 3, 6]},
]

pod_number = st.integers(0, 5)
event = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from([8, 32, 64, 96, 128, 256, 512])),
    st.tuples(st.just("kill"), pod_number),
    st.tuples(st.just("vanish"), pod_number),
    st.tuples(st.just("restart"), pod_number),
    st.tuples(st.just("raise"), pod_number),
    st.tuples(st.just("drain"), pod_number),
    st.tuples(st.just("terminate"), pod_number),
    st.tuples(st.just("notice"), pod_number),
    st.tuples(st.just("reject"), pod_number),
    st.tuples(st.just("silence"), pod_number),
    st.tuples(st.just("accuse"), pod_number),
    st.tuples(st.just("rubbish"), pod_number),
    st.tuples(st.just("grant"), st.none() | st.integers(0, 6)),
    st.tuples(st.just("capacity"), st.integers(0, 6)),
    st.tuples(st.just("suspend"), st.booleans()),
    st.tuples(st.just("forget membership"), st.none()),
    st.tuples(st.just("finish"), st.integers(0, 30)),
    st.tuples(st.just("tick"), st.sampled_from([1, 5, 40, 300, 700])),
    st.tuples(st.just("plan"), st.none()),
    st.tuples(st.just("act"), st.none()),
    st.tuples(st.just("settle"), st.none()),
)


def happen(cluster: FakeCluster, name: str, value: Any) -> None:
    """One event of the list; those about a pod do nothing when there is no such pod."""
    match name:
        case "ask":
            cluster.ask(value)
        case "grant":
            cluster.granted = value
        case "capacity":
            cluster.capacity = value
        case "suspend":
            cluster.set_spec(suspend=value)
        case "forget membership":
            cluster.membership = None
        case "finish":
            if value < 2 and cluster.trains:
                cluster.finish(leader_only=value == 1)
        case "tick":
            cluster.now += value
        case "plan":
            cluster.reconcile()
        case "act":
            cluster.act()
        case "settle":
            cluster.settle()
        case _:
            pods = sorted(cluster.pods.values(), key=lambda pod: pod.name)
            if value < len(pods) and pods[value].runs:
                _happen_to_pod(cluster, name, pods[value])


def _happen_to_pod(cluster: FakeCluster, name: str, pod: Any) -> None:
    match name:
        case "kill":
            cluster.kill(pod)
        case "vanish":
            del cluster.pods[pod.name]
        case "restart" if pod.phase is not None:
            cluster.restart_workers(pod)
        case "raise" if pod.phase is not None:
            cluster.restart_workers(pod, message="ValueError: user's fault")
        case "drain":
            pod.deleting = True
        case "terminate":
            pod.leaving = True
        case "notice":
            pod.notice, pod.node = "node n1 has the taint x", "n1"
        case "reject":
            pod.rejected, pod.node = "NodeLost", "n1"
        case "silence" if pod.phase is not None:
            pod.silent = True
        case "accuse":
            pod.suspects = tuple(sorted(set(cluster.pods) - {pod.name}))[:2]
        case "rubbish":
            pod.request = {
                "sequence": cluster.sequence + 1,
                "requested": 99,
                "effective": 8 * 1000 + 3,
                "reason": "nonsense",
            }


def check_rest(cluster: FakeCluster) -> None:
    """Quiet: nothing limits the job any more, and time passes."""
    cluster.granted, cluster.capacity = None, 100
    cluster.set_spec(suspend=False)
    cluster.pass_time()
    status = cluster.job.status
    alive = [pod for pod in cluster.pods.values() if pod.runs]
    told = f"{status.state}: {cluster.last.reason if cluster.last else ''}"
    if cluster.over:
        assert not alive, told
        assert all(
            entry.message
            for entry in status.conditions
            if entry.type in ("Completed", "Failed") and entry.status == "True"
        )
        return
    pods = cluster.job.spec.pods
    want_size = fitting_size(
        pods,
        needed=needed_pods(cluster.job.spec, effective=status.batch.effective),
        ceiling=pods.max,
    )
    assert cluster.trains, told
    assert status.batch.effective == cluster.effective, told
    assert len(cluster.members) == want_size, told
    assert sorted(pod.name for pod in alive) == sorted(cluster.members), "a pod is left over"
    assert status.state == "Training", told
    assert all(pod.phase is PodPhase.TRAINING for pod in alive)


def check(sizes: dict[str, Any], events: list[tuple[str, Any]], *, backoff_limit: int) -> None:
    """Runs the events and then checks that everything comes to rest."""
    spec = a_spec(pods=sizes, failurePolicy={"backoffLimit": backoff_limit})
    cluster = FakeCluster(job=a_job(spec))
    for name, value in events:
        happen(cluster, name, value)
    check_rest(cluster)


@given(
    sizes=st.sampled_from(SIZES),
    events=st.lists(event, min_size=10, max_size=40),
    backoff_limit=st.sampled_from([0, 3, 1000]),
)
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_any_sequence_of_events_ends_at_rest(sizes, events, backoff_limit):
    check(sizes, events, backoff_limit=backoff_limit)


@pytest.mark.matrix
@pytest.mark.timeout(3000)
@given(
    sizes=st.sampled_from(SIZES),
    events=st.lists(event, min_size=20, max_size=100),
    backoff_limit=st.sampled_from([0, 3, 1000]),
)
@settings(deadline=None, max_examples=3000, suppress_health_check=[HealthCheck.too_slow])
def test_any_long_sequence_of_events_ends_at_rest(sizes, events, backoff_limit):
    check(sizes, events, backoff_limit=backoff_limit)
