"""What a reflector knows of a real API server, and what it was told, for tests."""

import asyncio
from contextlib import asynccontextmanager

from concertina_operator.cluster.reflector import Reflector
from concertina_operator.cluster.store import Store


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

    def document(self, name, n, **labels):
        labels = {"followed": "yes", **labels}
        return {"metadata": {"name": name, "labels": labels}, "data": {"n": n}}

    async def create(self, name, n="1"):
        return await self.api.call("POST", self.path, body=self.document(name, n))

    async def replace(self, name, n, **labels):
        body = self.document(name, n, **labels)
        return await self.api.call("PUT", f"{self.path}/{name}", body=body)

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
