"""A token that ends while the operator runs: all of its connections find the next one."""

from datetime import UTC, datetime

import pytest

from concertina_operator.cluster.rights import OPERATOR
from tests.cluster.api import wait_for
from tests.concertina_operator.cluster.installed import as_token
from tests.concertina_operator.cluster.processes import operator_kubeconfig, operator_process
from tests.concertina_operator.cluster.trainers import Trainers, a_trained_job, prepare_node


def a_token(api, namespace, name):
    """A token of the operator that ends with the secret of this name."""
    secret = api.create(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": name}})
    bound = {"apiVersion": "v1", "kind": "Secret", "name": name, "uid": secret["metadata"]["uid"]}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{OPERATOR}/token"
    return api.create(path, {"spec": {"boundObjectRef": bound}})["status"]["token"]


def watches_since(cluster, namespace, moment):
    """Kinds of objects of which the operator has begun a watch since then."""
    account = f"system:serviceaccount:{namespace}:{OPERATOR}"
    return {
        event["objectRef"]["resource"]
        for event in cluster.audit_events()
        if event["user"].get("username") == account
        and event["verb"] == "watch"
        and event["responseStatus"]["code"] == 200
        and event["requestReceivedTimestamp"] > moment
    }


@pytest.mark.matrix
def test_every_connection_goes_on_with_the_next_token(resources, api, namespace, tmp_path):
    prepare_node(api)
    kubeconfig = operator_kubeconfig(resources, api, namespace, tmp_path / "kubeconfig")
    as_token(resources, a_token(api, namespace, "first"), kubeconfig)
    trainers = Trainers(api=api, namespace=namespace)
    with operator_process(kubeconfig, namespace, tmp_path / "log") as replica:
        trainers.create(a_trained_job())
        trainers.until_trained_by("tiny-lm-0")
        as_token(resources, a_token(api, namespace, "second"), kubeconfig)
        api.delete(f"/api/v1/namespaces/{namespace}/secrets/first")
        wait_for(lambda: 'status="401"' in replica.ask("/metrics"), lambda: "never refused")

        moment = datetime.now(UTC).isoformat()
        want = {"adaptivetrainingjobs", "pods", "trainingmemberships", "trainingreports"}
        wait_for(
            lambda: want <= watches_since(resources, namespace, moment),
            lambda: f"{watches_since(resources, namespace, moment)} alone are watched",
            120,
        )
        other = Trainers(api=api, namespace=namespace, job="other")
        other.create(a_trained_job("other"))
        other.until_trained_by("other-0")
        assert not replica.has_ended()
        assert replica.ask("/healthz") == "ok"
