"""Which requests the flow schemas of a release take, as an API server tells in its answers."""

import json
import ssl
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
import yaml

from concertina_operator.cluster import paths
from concertina_operator.cluster.rights import OPERATOR
from tests.chart.conftest import NAMESPACE, TEAMS
from tests.chart.helm import of_kind, render
from tests.cluster.api import wait_for
from tests.concertina_operator.cluster.installed import apply_all, path_of

TRAINER = "default"
SCHEMA_OF_ANSWER = "X-Kubernetes-PF-FlowSchema-UID"
SECONDS = 60


@contextmanager
def account(server, namespace, name):
    """A service account; one that was not there goes in the end."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    there = server.api.find(f"{path}/{name}")
    if not there:
        server.api.create(path, {"metadata": {"name": name}})
    yield
    if not there:
        server.api.delete(f"{path}/{name}")


@pytest.fixture(scope="module", params=[NAMESPACE, "kube-system"])
def installed(request, server):
    """Namespace of a release whose flow schemas the API server has."""
    objects = render(namespace=request.param)
    shares = of_kind(objects, "PriorityLevelConfiguration") + of_kind(objects, "FlowSchema")
    with account(server, request.param, OPERATOR):
        apply_all(server.api, shares)
        yield request.param
        for entry in reversed(shares):
            server.api.delete(path_of(entry))


@pytest.fixture
def ask(server, tmp_path):
    """Sends a request of an account; gives the name of the flow schema that took it."""

    def send(url, namespace, name):
        path = tmp_path / "kubeconfig"
        server.cluster.service_account_kubeconfig(path, namespace=namespace, name=name)
        token = yaml.safe_load(path.read_text())["users"][0]["user"]["token"]
        request = urllib.request.Request(
            server.cluster.url + url, headers={"Authorization": f"Bearer {token}"}
        )
        context = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(request, context=context, timeout=20) as answer:
                uid = answer.headers[SCHEMA_OF_ANSWER]
        except urllib.error.HTTPError as error:  # no rights: it has been sorted before
            with error:
                uid = error.headers[SCHEMA_OF_ANSWER]
        schemas = server.api.get("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas")["items"]
        return next(e["metadata"]["name"] for e in schemas if e["metadata"]["uid"] == uid)

    return send


@pytest.fixture
def wait_taken(ask):
    """Waits until an account's request is taken by a flow schema: the server learns by watching."""

    def wait(url, namespace, name, want):
        found = []

        def is_taken():
            found[:] = [ask(url, namespace, name)]
            return found == [want]

        wait_for(is_taken, lambda: f"{json.dumps(found)} took {url}, not {want}", SECONDS)

    return wait


def test_the_operator_has_its_own(installed, wait_taken):
    wait_taken(paths.jobs(TEAMS[0]), installed, OPERATOR, OPERATOR)


def test_the_lease_goes_with_those_of_kubernetes(installed, wait_taken):
    # Kubernetes' own for kube-system is of the same priority level, and comes first.
    own = "system-leader-election" if installed == "kube-system" else f"{OPERATOR}-lease"
    wait_taken(paths.leases(installed, OPERATOR), installed, OPERATOR, own)


def test_a_trainer_has_that_of_trainers(installed, wait_taken):
    wait_taken(paths.memberships(TEAMS[0], "a"), TEAMS[0], TRAINER, "concertina-trainers")


def test_a_pod_that_asks_for_something_else_has_that_of_kubernetes(installed, wait_taken):
    wait_taken(f"/api/v1/namespaces/{TEAMS[0]}/pods", TEAMS[0], TRAINER, "service-accounts")
