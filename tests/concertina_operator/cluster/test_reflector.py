import asyncio
from contextlib import asynccontextmanager

import pytest

from concertina_operator.cluster.client import Api
from concertina_operator.cluster.reflector import Reflector
from concertina_operator.cluster.store import Key, Store


@pytest.fixture(autouse=True)
def reach(control_plane, monkeypatch):
    """Makes the product's own client find the control plane."""
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(control_plane.kubeconfig))


class Followed:
    """The config maps with a label in a namespace, as a reflector knows them."""

    def __init__(self, api, namespace):
        self.api = api
        self.path = f"/api/v1/namespaces/{namespace}/configmaps"
        self.store = Store()
        self.told = []
        self.changed = asyncio.Event()
        self.namespace = namespace
        self.reflector = Reflector(
            api,
            self.path,
            self.store,
            read=lambda document, _: document["data"]["n"],
            on_change=self.take,
            params={"labelSelector": "followed"},
        )

    def take(self, key, value):
        self.told.append((key.name, value, self.store.get(key) is not None))
        self.changed.set()

    async def until(self, condition):
        async with asyncio.timeout(30):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def document(self, name, n):
        labels = {"followed": "yes"}
        return {"metadata": {"name": name, "labels": labels}, "data": {"n": n}}

    async def create(self, name, n="1"):
        return await self.api.call("POST", self.path, body=self.document(name, n))

    async def replace(self, name, n):
        return await self.api.call("PUT", f"{self.path}/{name}", body=self.document(name, n))

    async def delete(self, name):
        await self.api.call("DELETE", f"{self.path}/{name}")

    def known(self):
        return {key.name: self.store.get(key) for key in self.store.all_keys()}

    @asynccontextmanager
    async def running(self):
        self.reflector.synced.clear()
        task = asyncio.create_task(self.reflector.run())
        try:
            async with asyncio.timeout(30):
                await self.reflector.synced.wait()
            yield
        finally:
            task.cancel()


def with_followed(test, namespace):
    async def run():
        async with Api() as api:
            await test(Followed(api, namespace))

    asyncio.run(run())


def test_knows_what_was_there_and_what_changes(namespace):
    async def test(followed):
        await followed.create("before")
        async with followed.running():
            assert followed.known() == {"before": "1"}
            await followed.create("after")
            await followed.replace("before", "2")
            await followed.until(lambda: followed.known() == {"before": "2", "after": "1"})
            await followed.delete("before")
            await followed.until(lambda: followed.known() == {"after": "1"})
        assert followed.told == [
            ("before", "1", True),
            ("after", "1", True),
            ("before", "2", True),
            ("before", "2", False),
        ]

    with_followed(test, namespace)


def test_tells_of_what_vanished_while_it_was_cut_off(namespace):
    async def test(followed):
        await followed.create("stays")
        await followed.create("goes")
        async with followed.running():
            assert set(followed.known()) == {"stays", "goes"}
        await followed.delete("goes")
        async with followed.running():
            assert set(followed.known()) == {"stays"}
        assert followed.told[-1] == ("goes", "1", False)

    with_followed(test, namespace)


def test_an_answer_to_an_own_write_is_known_at_once_and_told_once(namespace):
    async def test(followed):
        async with followed.running():
            followed.reflector.take_answer(await followed.create("mine"))
            assert followed.store.get(Key(followed.namespace, "mine")) == "1"
            await followed.create("next")
            await followed.until(lambda: "next" in followed.known())
        assert [name for name, _, _ in followed.told] == ["mine", "next"]

    with_followed(test, namespace)


def test_a_watch_on_which_there_is_nothing_to_say_is_heard_when_the_server_ends_it(
    namespace, monkeypatch
):
    monkeypatch.setattr("concertina_operator.cluster.client.WATCH_SECONDS", 1)

    async def test(followed):
        async with followed.running(), asyncio.timeout(30):
            listed_at = followed.reflector.heard_at
            while followed.reflector.heard_at < listed_at + 2:  # noqa: ASYNC110 - silence tells nothing
                await asyncio.sleep(0.05)
        assert followed.told == []

    with_followed(test, namespace)
