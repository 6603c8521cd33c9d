"""How rules and requests are read and compared, on a few of each."""

import pytest

from concertina_operator.cluster.install import install_objects
from concertina_operator.cluster.rights import OPERATOR
from tests.e2e.kubelet.audited import (
    ACCOUNT,
    POD_NAME,
    Right,
    Scope,
    granted,
    granted_to_trainers,
    used,
    used_by_trainers,
)

LEASES = "coordination.k8s.io"


def request(account, verb, resource, *, pod=False, **reference):
    extra = {"extra": {POD_NAME: ["tiny-lm-0"]}} if pod else {}
    return {
        "user": {"username": f"{ACCOUNT}{account}", **extra},
        "verb": verb,
        "objectRef": {"resource": resource, **reference},
    }


def test_rules_are_read_with_the_scope_of_their_binding():
    objects = install_objects(image="none")

    lease = Right(verb="get", resource="leases", group=LEASES, name=OPERATOR, scope=Scope.OWN)
    assert {Right(verb="list", resource="pods"), lease} <= granted(objects)
    assert {right.scope for right in granted_to_trainers(objects)} == {Scope.OWN}
    in_one = granted(install_objects(image="none", jobs_in="team"))
    assert {right.scope for right in in_one} == {Scope.OWN, Scope.OTHER}


@pytest.mark.parametrize(
    ("event", "want"),
    [
        pytest.param(
            request(f"system:{OPERATOR}", "list", "pods"),
            Right(verb="list", resource="pods"), id="everywhere",
        ),
        pytest.param(
            request(f"system:{OPERATOR}", "patch", "jobs", subresource="status", namespace="a"),
            Right(verb="patch", resource="jobs/status", scope=Scope.OTHER), id="elsewhere",
        ),
        pytest.param(
            request(f"system:{OPERATOR}", "get", "leases", apiGroup=LEASES, namespace="system",
                    name=OPERATOR),
            Right(verb="get", resource="leases", group=LEASES, name=OPERATOR, scope=Scope.OWN),
            id="own",
        ),
    ],
)  # fmt: skip
def test_a_request_of_the_operator_is_a_use(event, want):
    assert used([event]) == {want}
    assert used_by_trainers([event]) == set()


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(request("kube-system:pod-garbage-collector", "get", "pods"), id="controller"),
        pytest.param(request("team:default", "get", "pods", namespace="team"), id="no pod's token"),
        pytest.param({"user": {"username": "admin"}, "verb": "get"}, id="no resource"),
        pytest.param({"user": {}, "verb": "get", "objectRef": {"resource": "pods"}}, id="nobody"),
    ],
)
def test_what_others_ask_is_nobodys_use(event):
    assert used([event]) == used_by_trainers([event]) == set()


def test_what_a_pod_asks_is_a_use_of_a_trainer():
    event = request("team:default", "watch", "trainingmemberships", namespace="team", pod=True)
    assert used_by_trainers([event]) == {
        Right(verb="watch", resource="trainingmemberships", scope=Scope.OWN)
    }


@pytest.mark.parametrize(
    ("right", "use", "want_covered", "want_needed"),
    [
        pytest.param({}, {"scope": Scope.OTHER}, True, True, id="everywhere, for others"),
        pytest.param({}, {"scope": Scope.OWN}, True, False, id="everywhere, for its own alone"),
        pytest.param({"scope": Scope.OWN}, {"scope": Scope.OWN}, True, True, id="own"),
        pytest.param({"scope": Scope.OWN}, {"scope": Scope.OTHER}, False, False, id="own, other"),
        pytest.param({"name": "a"}, {"name": "a"}, True, True, id="name"),
        pytest.param({"name": "a"}, {"name": "b"}, False, False, id="another name"),
        pytest.param({"name": "a"}, {}, False, False, id="name, all"),
        pytest.param({}, {"verb": "list"}, False, False, id="verb"),
        pytest.param({}, {"group": "apps"}, False, False, id="group"),
    ],
)
def test_a_right_covers_uses_of_its_kind(right, use, want_covered, want_needed):
    same = {"verb": "get", "resource": "pods"}
    right, use = Right(**(same | right)), Right(**(same | use))
    assert right.covers(use) is want_covered
    assert right.is_needed_for(use) is want_needed
