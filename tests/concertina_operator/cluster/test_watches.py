"""Watches that do not go as they should: cut off, refused, or never saying a word."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from concertina_operator.cluster.client import Api
from concertina_operator.cluster.credentials import Credentials
from concertina_operator.cluster.metrics import Metrics
from concertina_operator.cluster.reflector import SHORTEST_WATCH_SECONDS, Reflector
from concertina_operator.cluster.shell import Shell
from concertina_operator.cluster.store import Key, Store
from tests.cluster.certificates import write_kubeconfig
from tests.concertina_operator.cluster.listening import listening


def an_object(version, name="it"):
    return {"metadata": {"name": name, "namespace": "ml", "resourceVersion": str(version)}}


def told(kind, document):
    return web.Response(text=json.dumps({"type": kind, "object": document}) + "\n")


class Followed:
    """A reflector on a server with one object, whose watches end as the test says."""

    def __init__(self, *endings):
        self.endings = list(endings)
        """Of the first watches; the others are cut off at once."""
        self.lists = 0
        self.listed = (5, an_object(3))
        """Version of the list, and its only object."""
        self.watched_from = []
        self.asked = asyncio.Event()
        self.store = Store()

    async def answer(self, request):
        self.asked.set()
        if "watch" not in request.query:
            self.lists += 1
            version, item = self.listed
            metadata = {"resourceVersion": str(version)}
            return web.json_response({"metadata": metadata, "items": [item]})
        self.watched_from.append(request.query["resourceVersion"])
        return self.endings.pop(0) if self.endings else web.Response()

    @asynccontextmanager
    async def running(self):
        async with (
            listening(self.answer) as url,
            Api(credentials=lambda: Credentials(server=url)) as api,
            asyncio.timeout(60),
        ):
            self.reflector = Reflector(
                api,
                "/things",
                self.store,
                read=lambda document, _: document["metadata"]["resourceVersion"],
                on_change=lambda *_: None,
            )
            task = asyncio.create_task(self.reflector.run())
            await self.reflector.synced.wait()
            yield
            task.cancel()

    async def until(self, condition):
        while not condition():
            self.asked.clear()
            await self.asked.wait()


def test_watches_that_are_cut_off_at_once_come_less_and_less_often_and_count_as_silence():
    async def test():
        followed = Followed()
        async with followed.running():
            listed_at = followed.reflector.heard_at
            await followed.until(lambda: len(followed.watched_from) == 4)
            assert time.monotonic() - listed_at > 0.5 * (0.5 + 1.0 + 2.0)
            assert followed.reflector.heard_at == listed_at
        assert followed.lists == 1

    asyncio.run(test())


def test_a_server_in_trouble_is_not_asked_for_everything_again():
    async def test():
        followed = Followed(
            told("MODIFIED", an_object(7)),
            web.Response(status=429, headers={"Retry-After": "2"}),
            web.Response(status=503),
        )
        async with followed.running():
            await followed.until(lambda: len(followed.watched_from) == 2)
            refused_at = time.monotonic()
            await followed.until(lambda: len(followed.watched_from) == 3)
            assert time.monotonic() - refused_at >= 2
            await followed.until(lambda: len(followed.watched_from) == 4)
        assert followed.watched_from == ["5", "7", "7", "7"]
        assert followed.lists == 1

    asyncio.run(test())


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(lambda: web.Response(status=410), id="the history is gone"),
        pytest.param(lambda: web.Response(status=403), id="it may not be watched"),
        pytest.param(lambda: told("ERROR", {"code": 500, "message": "bad"}), id="a bad object"),
    ],
)
def test_a_watch_that_cannot_go_on_is_begun_with_a_new_list(ending):
    async def test():
        followed = Followed(*(ending() for _ in range(3)))
        async with followed.running():
            listed_at = followed.reflector.heard_at
            await followed.until(lambda: followed.lists == 4)
            assert time.monotonic() - listed_at > 0.5 * (0.5 + 1.0 + 2.0)

    asyncio.run(test())


def test_a_restored_state_is_believed_although_its_versions_are_lower():
    async def test():
        followed = Followed(web.Response(status=410))
        followed.listed = (9, an_object(8, name="made later"))
        async with followed.running():
            followed.listed = (5, an_object(3, name="restored"))
            await followed.until(lambda: len(followed.watched_from) == 2)
            assert followed.store.all_keys() == (Key("ml", "restored"),)

    asyncio.run(test())


HOUR = 3600
VERBS = ["get", "list", "watch", "patch", "create"]


def resources(*entries):
    kinds = ({"name": name, "kind": kind, "namespaced": True} for name, kind in entries)
    return {"resources": [{"singularName": "", "verbs": VERBS} | kind for kind in kinds]}


def groups(**versions):
    return {
        "groups": [
            {
                "name": name,
                "preferredVersion": {"version": version},
                "versions": [{"version": version}],
            }
            for name, version in versions.items()
        ]
    }


class EmptyCluster:
    """Has no objects. Watches end after a second; those of one kind after so many instead."""

    kinds = {
        "/api": {"versions": ["v1"]},
        "/api/v1": resources(("namespaces", "Namespace"), ("events", "Event")),
        "/apis": groups(**{"apiextensions.k8s.io": "v1", "concertina.dev": "v1alpha1"}),
        "/apis/apiextensions.k8s.io/v1": resources(
            ("customresourcedefinitions", "CustomResourceDefinition")
        ),
        "/apis/concertina.dev/v1alpha1": resources(("adaptivetrainingjobs", "AdaptiveTrainingJob")),
    }
    """What kopf asks for before it watches."""

    def __init__(self, *, odd, seconds):
        self.odd = odd
        self.seconds = seconds
        self.odd_ones = 0
        """Watches of that kind so far."""
        self.unannounced = 0
        """How often it is yet to be asked until it tells of the jobs' resource."""

    async def answer(self, request):
        if "watch" not in request.query:
            nothing = {"metadata": {"resourceVersion": "5"}, "items": []}
            if request.path == "/apis" and self.unannounced:
                self.unannounced -= 1
                return web.json_response(groups(**{"apiextensions.k8s.io": "v1"}))
            return web.json_response(self.kinds.get(request.path, nothing))
        response = web.StreamResponse()
        await response.prepare(request)
        seconds = float(request.query["timeoutSeconds"])
        if request.path.endswith(f"/{self.odd}"):
            self.odd_ones += 1
            seconds = self.seconds
        await asyncio.sleep(seconds)
        return response


@pytest.mark.parametrize(
    ("odd", "seconds"),
    [
        pytest.param("", 1, id="none"),
        pytest.param("adaptivetrainingjobs", HOUR, id="of the jobs says nothing"),
        pytest.param("adaptivetrainingjobs", 0, id="of the jobs is cut off at once"),
        pytest.param("trainingreports", HOUR, id="of the reports says nothing"),
    ],
)
def test_silence_is_that_of_the_watch_that(odd, seconds, monkeypatch, tmp_path):
    for module in ("client", "jobs"):
        monkeypatch.setattr(f"concertina_operator.cluster.{module}.WATCH_SECONDS", 1)
    cluster = EmptyCluster(odd=odd, seconds=seconds)
    cluster.unannounced = 2
    kubeconfig = tmp_path / "kubeconfig"
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(kubeconfig))

    async def test():
        async with (
            asyncio.timeout(60),
            listening(cluster.answer) as url,
            Api() as api,
        ):
            write_kubeconfig(kubeconfig, cluster={"server": url}, user={})
            shell = Shell(api, namespace="ml", instance="test", metrics=Metrics())
            running = asyncio.create_task(shell.run())
            await shell.synced()
            began, silence = time.monotonic(), 0.0
            while silence < 5 if odd else time.monotonic() - silence < began + 3:
                await asyncio.sleep(0.05)
                await api.call("GET", "/lease")
                silence = shell.silent_seconds(succeeded_at=api.succeeded_at)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert cluster.odd_ones <= 1 + (time.monotonic() - began) / SHORTEST_WATCH_SECONDS

    asyncio.run(test())
