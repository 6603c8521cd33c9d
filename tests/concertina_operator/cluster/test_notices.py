import pytest

from concertina_operator.cluster.facts import observed
from concertina_operator.cluster.notices import (
    KNOWN_TAINTS,
    MAX_ASKED,
    MAX_TAINTS,
    notice_taints,
    taints_fault,
    tolerated_keys,
)
from concertina_operator.cluster.pod_facts import OwnedPod
from concertina_operator.cluster.store import Key
from tests.concertina_operator.factories import a_job, a_pod


def a_node(*keys):
    """A node with taints of these keys, as the API server tells of it."""
    taints = [{"key": key, "effect": "NoSchedule"} for key in keys]
    return {"metadata": {"name": "gpu-7"}, "spec": {"taints": taints} if taints else {}}


@pytest.mark.parametrize("key", sorted(KNOWN_TAINTS))
def test_who_drains_a_node_next_is_known_by_its_taint(key):
    assert notice_taints(a_node("nvidia.com/gpu", key), known=KNOWN_TAINTS) == (key,)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("node.kubernetes.io/unschedulable", id="a cordon"),
        pytest.param("DeletionCandidateOfClusterAutoscaler", id="a candidate"),
        pytest.param("aws-node-termination-handler/rebalance-recommendation", id="a risk"),
        pytest.param("node.kubernetes.io/unreachable", id="a node that is silent"),
        pytest.param("node.kubernetes.io/out-of-service", id="a node that is off"),
        pytest.param("kubernetes.azure.com/scalesetpriority", id="spot machines as such"),
    ],
)
def test_what_may_come_to_nothing_or_comes_too_late_is_no_notice(key):
    assert notice_taints(a_node(key), known=KNOWN_TAINTS) == ()


def test_a_node_without_taints_says_nothing():
    assert notice_taints(a_node(), known=KNOWN_TAINTS) == ()


def test_of_one_node_only_so_much_is_kept():
    keys = [f"example.com/{number:02}" for number in range(MAX_TAINTS + 1)]
    assert notice_taints(a_node(*keys), known=frozenset(keys)) == tuple(keys[:MAX_TAINTS])


@pytest.mark.parametrize(
    ("asked", "want"),
    [
        pytest.param(["example.com/going", "ToBeDeleted_x"], "", id="keys"),
        pytest.param(["example.com/going:NoSchedule"], "is no key of a taint", id="an effect"),
        pytest.param([""], "is no key of a taint", id="nothing"),
        pytest.param(["x/y/z"], "is no key of a taint", id="two slashes"),
        pytest.param(
            [f"x{number}" for number in range(MAX_ASKED + 1)],
            f"{MAX_ASKED + 1} keys of taints > {MAX_ASKED}",
            id="too many",
        ),
    ],
)
def test_keys_that_are_asked_for_are_checked(asked, want):
    assert want in taints_fault(asked)
    assert bool(taints_fault(asked)) == bool(want)


def noticed(*, node="gpu-7", tolerations=(), **facts):
    """What a pod is told where gpu-7 has two taints."""
    pod = OwnedPod(
        job=Key("ml", "tiny-lm"),
        owner="job-uid",
        facts=a_pod(node=node, **facts),
        tolerated=tolerated_keys({"tolerations": tolerations}),
    )
    notices = {"gpu-7": ("a", "b")}
    (seen,) = observed(a_job(), membership=None, pods=[pod], reports=(), notices=notices).pods
    return seen.notice


def test_a_pod_is_told_of_the_taints_of_its_node():
    assert noticed() == "node gpu-7 has the taint a, b"
    assert noticed(node="gpu-8") == ""
    assert noticed(node="") == ""


def test_what_is_said_of_the_pod_itself_goes_before_what_is_said_of_its_node():
    assert noticed(notice="DisruptionTarget") == "DisruptionTarget"


@pytest.mark.parametrize(
    ("tolerations", "want"),
    [
        pytest.param(
            [{"key": "a", "operator": "Exists"}], "node gpu-7 has the taint b", id="one of them"
        ),
        pytest.param([{"key": "a"}, {"key": "b"}], "", id="both"),
        pytest.param(
            [{"operator": "Exists"}], "node gpu-7 has the taint a, b", id="whatever comes"
        ),
    ],
)
def test_a_taint_that_a_pod_tolerates_by_name_is_no_notice_to_it(tolerations, want):
    assert noticed(tolerations=tolerations) == want
