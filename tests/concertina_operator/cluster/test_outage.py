"""The API server is away for a while, or has forgotten what was: nothing is lost or done twice."""

import asyncio
import http.client
import json
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, aclosing, closing

import pytest

from concertina_operator.cluster.client import Api
from concertina_operator.cluster.errors import ApiError, Gone
from concertina_operator.cluster.install import trainer_objects
from tests.cluster.api import ApiFailure, wait_for
from tests.cluster.fixtures import (
    control_plane_of_its_own,
    fresh_namespace,
    obstacle,
    required_or_skipped,
)
from tests.cluster.layout import Level
from tests.concertina_operator.cluster.followed import Followed
from tests.concertina_operator.cluster.installed import apply_all
from tests.concertina_operator.cluster.processes import operator_kubeconfig, operator_process
from tests.concertina_operator.cluster.trainers import Trainers, a_trained_job, prepare_node

pytestmark = pytest.mark.cluster
LONG_SECONDS = 60


@pytest.fixture(scope="module")
def cluster():
    """A control plane whose API server the tests of this module may stop."""
    if reason := obstacle(Level.CONTROL_PLANE):
        required_or_skipped(reason)
    with control_plane_of_its_own() as cluster:
        with closing(cluster.admin()) as api:
            apply_all(api, trainer_objects())
            prepare_node(api)
        yield cluster


@pytest.fixture
def namespace(cluster):
    with fresh_namespace(cluster) as name:
        yield name


class Deployment:
    """One operator, which is started again when it has ended."""

    def __init__(self, start):
        self._start = start
        self.replicas = [start("0")]

    def look(self):
        """The replica that runs now, which is well."""
        replica = self.replicas[-1]
        try:
            words = replica.ask("/healthz")
        except urllib.error.HTTPError as complaint:
            words = complaint.read().decode()
        except (urllib.error.URLError, ConnectionError):
            replica.process.wait(30)  # it ends just now
            words = "ok"
        assert words == "ok"
        if replica.has_ended():
            self.replicas.append(self._start(str(len(self.replicas))))
        return self.replicas[-1]

    @property
    def restarts(self):
        return len(self.replicas) - 1


@pytest.fixture
def deployment(cluster, namespace, tmp_path):
    with closing(cluster.admin()) as api:
        kubeconfig = operator_kubeconfig(cluster, api, namespace, tmp_path / "kubeconfig")
    with ExitStack() as stack:
        yield Deployment(
            lambda name: stack.enter_context(
                operator_process(kubeconfig, namespace, tmp_path / name)
            )
        )


def wait_until_back(api):
    def answer():
        try:
            return api.get("/readyz")
        except (OSError, http.client.HTTPException, ApiFailure):
            return None

    wait_for(answer, lambda: "the API server does not come back")


def has_noticed(deployment, _):
    return deployment.restarts or 'status="0"' in deployment.replicas[0].ask("/metrics")


def has_lost_its_lease(deployment, _):
    return deployment.restarts == 1


def is_long_over(_, began):
    return time.monotonic() - began > LONG_SECONDS


@pytest.mark.parametrize(
    "enough",
    [
        pytest.param(has_noticed, id="for a moment"),
        pytest.param(has_lost_its_lease, id="until the lease is lost", marks=pytest.mark.matrix),
        pytest.param(is_long_over, id="for a minute", marks=pytest.mark.matrix),
    ],
)
def test_an_api_server_that_is_away_costs_at_most_one_restart_and_no_pod(
    cluster, namespace, deployment, enough
):
    with closing(cluster.admin()) as api:
        trainers, deleted, made_first = (
            Trainers(api=api, namespace=namespace, job=name)
            for name in ("tiny-lm", "deleted", "made-first")
        )
        for crew in (trainers, deleted):
            crew.create(a_trained_job(crew.job))
            crew.until_trained_by(f"{crew.job}-0")
        cluster.order("kube-apiserver", "stop")
        began = time.monotonic()
        wait_for(
            lambda: deployment.look() and enough(deployment, began),
            lambda: deployment.replicas[-1].log.read_text(),
            LONG_SECONDS + 30,
        )
        trainers.imagined.ask(64)
        cluster.order("kube-apiserver", "start")
        wait_until_back(api)
        # All this may come before the operator watches again.
        api.delete(f"{deleted.group}/adaptivetrainingjobs/deleted")
        api.delete(f"/api/v1/namespaces/{namespace}/pods/deleted-0", gracePeriodSeconds=0)
        made_first.create(a_trained_job("made-first"))
        trainers.until(deployment.look, "no operator runs")
        trainers.until_trained_by("tiny-lm-0", "tiny-lm-1")
        made_first.until_trained_by("made-first-0")
        assert deployment.look().ask("/healthz") == "ok"
        assert deployment.restarts <= 1
        assert trainers.status()["failures"]["count"] == 0
    assert pods_written(cluster, namespace) == [
        ("create", "deleted-0"),
        ("create", "made-first-0"),
        ("create", "tiny-lm-0"),
        ("create", "tiny-lm-1"),
    ]


def pods_written(cluster, namespace):
    """What the operator has created and deleted, by the API server's own record."""
    account = f"system:serviceaccount:{namespace}:"
    return sorted(
        (event["verb"], event["objectRef"]["name"])
        for event in cluster.audit_events()
        if event["user"].get("username", "").startswith(account)
        and event["verb"] in ("create", "delete")
        and event.get("objectRef", {}).get("resource") == "pods"
        and event["responseStatus"]["code"] < 300
        and "dryRun" not in event["requestURI"]
    )


class GatedApi(Api):
    """Begins no watch while its gate is shut, and remembers how watches ended."""

    def __init__(self):
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.endings = []

    async def watch(self, path, *, params):
        await self.gate.wait()
        try:
            async with aclosing(super().watch(path, params=params)) as events:
                async for event in events:
                    yield event
        except ApiError as error:
            self.endings.append(type(error))
            raise


def compact(cluster, *, revision):
    """Throw the history before this revision away, as a cluster does every few minutes."""
    url = f"http://127.0.0.1:{cluster.layout.ports.etcd}/v3/kv/compaction"
    body = json.dumps({"revision": revision, "physical": True}).encode()
    with urllib.request.urlopen(url, body) as answer:
        assert answer.status == 200


def test_what_changed_in_a_history_that_was_thrown_away_is_found_by_a_new_list(
    cluster, namespace, monkeypatch
):
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(cluster.kubeconfig))

    def restart_and_change(followed):
        """Nothing of this is told by a watch: the new server begins with what is there then."""
        with closing(cluster.admin()) as api:
            # Else its history could begin where the watch was cut off.
            api.create(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": "other"}})
            for order in ("stop", "start"):
                cluster.order("kube-apiserver", order)
            wait_until_back(api)
            api.delete(f"{followed.path}/goes")
            api.patch(f"{followed.path}/changes", {"data": {"n": "2"}})
            api.create(followed.path, followed.document("comes", "1"))
            compact(cluster, revision=api.get(followed.path)["metadata"]["resourceVersion"])

    async def test():
        async with GatedApi() as api:
            followed = Followed(api, namespace)
            for name in ("stays", "changes", "goes"):
                await followed.create(name)
            async with followed.running():
                api.gate.clear()
                await asyncio.to_thread(restart_and_change, followed)
                assert set(followed.known()) == {"stays", "changes", "goes"}
                api.gate.set()
                want = {"stays": "1", "changes": "2", "comes": "1"}
                await followed.until(lambda: followed.known() == want)
            assert Gone in api.endings
            assert ("goes", "1", False) in followed.told

    asyncio.run(test())
