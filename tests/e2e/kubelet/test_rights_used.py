"""The rights of an installation are those that its accounts use: no more, no fewer.

Runs after all other tests of this folder (conftest.py), over what the API server recorded of them.
"""

import pytest

from concertina_operator.cluster.rights import TRAINER
from tests.e2e.kubelet.audited import (
    Right,
    granted,
    granted_to_trainers,
    not_granted,
    unused,
    used,
    used_by_trainers,
)
from tests.e2e.kubelet.operators import everything

UNREACHED = {
    Right(
        verb="bind", resource="clusterroles", group="rbac.authorization.k8s.io", name=TRAINER
    ): "the API server asks for it while it creates a role binding, in no request of its own",
}
"""Rights that no request uses, and why they are given all the same."""


@pytest.fixture(scope="module")
def accounts(node_cluster, operator):
    """Rights granted and used, of the operator and of trainers."""
    events, objects = list(node_cluster.audit_events()), everything()
    return {
        "operator": (granted(objects), used(events)),
        "trainer": (granted_to_trainers(objects), used_by_trainers(events)),
    }


@pytest.mark.parametrize("account", ["operator", "trainer"])
def test_everything_that_is_used_is_granted(accounts, account):
    rights, uses = accounts[account]
    assert uses
    assert not_granted(uses, rights) == set()


@pytest.mark.usefixtures("whole_folder")
@pytest.mark.parametrize("account", ["operator", "trainer"])
def test_everything_that_is_granted_is_used(accounts, account):
    rights, uses = accounts[account]
    assert unused(rights, uses) == rights & UNREACHED.keys()


def test_what_no_request_uses_is_a_rule(accounts):
    assert UNREACHED.keys() <= {right for rights, _ in accounts.values() for right in rights}
